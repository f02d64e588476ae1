// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/instruction.h"
#include "src/hooks/refusal.h"

namespace shadowmon {

/// Where an instruction goes on.
enum class Flow {
    next,   ///< behind itself
    branch, ///< behind itself or at its target: jcc, loop, jrcxz
    jump,   ///< direct or indirect
    call,
    ret,
};
Flow flow_of(const Instruction& instruction);

/// True if it can go on behind itself without being called back there.
inline bool falls_through(Flow flow) { return flow == Flow::next || flow == Flow::branch; }

/// Whether the instruction, by itself, can do its work at another address with
/// interrupts off. What is not known to be able to is refused.
Refusal judge_move(const Instruction& instruction);

/// True if it accesses memory, or is one of the few others that fault on their operands.
bool may_fault(const Instruction& instruction);

/// LOOP, LOOPE, LOOPNE, JRCXZ or JECXZ.
bool counts_down(const Instruction& instruction);

/// A prefix byte other than REX, whether or not it means something there.
bool has_prefix(const Instruction& instruction, uint8_t prefix);

/// A NOP of any length, or an XCHG of a register with itself.
bool is_nop(const Instruction& instruction);

} // namespace shadowmon
