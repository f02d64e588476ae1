// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/address.h>
#include <shadowmonitor/hooks.h>

#include <cstddef>
#include <cstdint>
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

/// All that there is to say about a hook at one address (Vm::explain). Plain data. Names are the
/// guest's and need escape() before they are printed.
struct Explanation {
    Gva address;
    std::string symbol; ///< empty: there is none
    uint64_t offset = 0;
    Gva function_start; ///< 0 outside the kernel's text
    Gva function_end;

    std::vector<ListedInstruction> around; ///< in the same function, those displaced among them
    std::string reason;  ///< why it cannot be hooked, in one word ("static_key"); empty if it can
    std::string refusal; ///< the same as a sentence

    // What follows is empty if it cannot.
    std::vector<ListedInstruction> displaced;
    std::vector<ListedPiece> pieces; ///< with interrupts on, then off; none of a CALL
    std::optional<Gate> gate;

    /// Here is ftrace's 5-byte NOP, on which there can be no INT 20.
    bool call_site = false;

    std::vector<std::string> notes; ///< what else the user should know
};

} // namespace shadowmon
