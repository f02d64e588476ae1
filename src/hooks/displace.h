// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/gate.h"
#include "src/hooks/instruction.h"

#include <span>
#include <vector>

namespace shadowmon {

/// One run of instructions that follow each other, taken from their place for a hook.
struct Displaced {
    std::vector<Instruction> instructions; ///< at least one
    std::vector<std::byte> bytes;          ///< of all of them
    Gate gate = Gate::interrupt;           ///< with a CALL it is one NOP, which need not be run

    Gva address() const { return instructions.front().address; }
    Gva end() const { return instructions.back().end(); }
};

/// No piece of displaced code is longer.
inline constexpr size_t max_piece_size = 64;

/// Code that does at `to` what the instructions do in their own place and then goes on where
/// they would: memory operands keep their address, calls push the return address that they
/// would have pushed, jumps lead where they led.
///
/// It is entered with interrupts off. `interrupts_on` says whether they were on at the
/// site: then the last instruction before the code is left is an STI, whose effect begins
/// behind the jump, so no interrupt is ever taken in between. CLI, STI and PUSHFQ among the
/// instructions see and set what they would have in their place.
///
/// Refuses what judge_move() refuses, and what it could not name from `to`.
Result<std::vector<std::byte>> displace(const Displaced& displaced, Gva to, bool interrupts_on);

/// An instruction whose memory operand is relative to RIP, in a form that names the same address
/// at `to`; any other instruction as it is.
Result<std::vector<std::byte>> rebase(const Instruction& instruction,
                                      std::span<const std::byte> bytes, Gva to);

/// The same operation on the same operands, wherever the two instructions are.
bool equivalent(const Instruction& a, const Instruction& b);

} // namespace shadowmon
