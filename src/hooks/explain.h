// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/layout.h"
#include "src/guest/kernel_info.h"
#include "src/hooks/hook_planner.h"

#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

struct ListedInstruction {
    Gva address;
    std::vector<std::byte> bytes;
    std::string text;       ///< in Intel syntax
    std::string names;      ///< what of the kernel a jump, a call or an operand names; or empty
    bool is_target = false; ///< something leads there other than by falling through
};

/// One form of the displaced instructions, as it stands in the compartment.
struct ListedPiece {
    bool interrupts_on; ///< for a site entered so
    Gva address;
    std::vector<ListedInstruction> code;
};

/// All that there is to say about a hook at one address. Plain data.
struct Explanation {
    Gva address;
    std::string symbol; ///< empty: there is none
    uint64_t offset = 0;
    Gva function_start; ///< 0 outside the kernel's text
    Gva function_end;

    std::vector<ListedInstruction> around; ///< in the same function, those displaced among them
    Judgement judgement;
    std::string refusal; ///< a sentence; empty if it can be hooked

    // What follows is empty if it cannot.
    std::vector<ListedInstruction> displaced;
    std::vector<ListedPiece> pieces; ///< with interrupts on, then off; none of a CALL
    std::optional<Gate> gate;

    /// Here is ftrace's 5-byte NOP, on which there can be no INT 20.
    bool call_site = false;
};

/// Explains a hook at any address. `page` is where the displaced code would be put: the first
/// hook's is there, those of later ones behind it.
Explanation explain(const HookPlanner& planner, const KernelInfo& kernel, Gva at,
                    Gva page = Gva(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET));

} // namespace shadowmon
