// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/displaced_code.h"
#include "src/hooks/hook_planner.h"

#include <span>
#include <string>
#include <vector>

namespace shadowmon {

/// A place near the start of a function where its arguments are still in their registers.
struct SiteRequest {
    std::string function;            ///< for messages
    Gva start;                       ///< first instruction
    std::span<const std::byte> code; ///< from there to the end of the function
    std::vector<ZydisRegister> keep; ///< registers that the payload reads there
};

/// An instruction that can carry a hook.
struct Site {
    Gva address;
    Instruction instruction;
    std::vector<std::byte> bytes; ///< of the whole instruction
};

/// Why an instruction of a prologue is passed over; none: it is taken. Stricter than what can be
/// displaced: a monitor that chooses the place itself chooses a plain one.
enum class PrologueRefusal {
    none,
    undecodable,
    hooked_already,   ///< there is an INT 20: a leftover, or another monitor's
    patched_by_guest, ///< NOPs and ENDBR64, which the kernel itself rewrites or relies on
    too_short,
    page_crossing,
    control_flow,
    unsafe_class, ///< not a plain move, arithmetic, push or pop
    memory,       ///< names memory that might not be mapped
    special_register,
    jump_target,
};
const char* describe(PrologueRefusal refusal);

/// Judges one instruction of a prologue by itself.
PrologueRefusal judge_prologue(const Instruction& instruction);

/// The first instruction of the function's straight-line prologue that can carry a
/// hook, those without RIP-relative operands first. Fails naming every
/// instruction that was looked at and why it was refused.
Result<Site> plan_site(const SiteRequest& request);

} // namespace shadowmon
