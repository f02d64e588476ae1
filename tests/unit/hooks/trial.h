// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/displace.h"
#include "tests/unit/hooks/fence.h"

#include <optional>
#include <string>

namespace shadowmon::test {

/// SplitMix64: a thousand numbers go into each trial.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t operator()() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }

  private:
    uint64_t state_;
};

/// Why instructions cannot be executed in user mode; empty if they can, as far as can be told
/// before trying.
std::string not_for_user_mode(const Displaced& displaced);

/// The instructions as they would be at Fence::original(): the same bytes, but for addresses
/// that they name by RIP or absolutely, which lead to the fence's data, and near branches, which
/// lead to the page of targets. Nothing if that has no meaning there.
std::optional<Displaced> bring_into_fence(const Displaced& displaced, Random& random);

/// Random registers, flags and memory with which memory operands lie in the fence. Memory is
/// written to the fence.
Registers choose_state(const Displaced& in_fence, Fence& fence, Random& random);

/// One execution of a piece beside one of the original, from the same state.
struct Trial {
    const Displaced& code;
    const Registers& start;
    const Ending& original;
    const Ending& displaced;
    Gva piece;
    size_t piece_size;
};

/// What the two endings differ in; empty if in nothing that counts. Below the stack pointer, and
/// where the original only moved the stack pointer over it, memory is undefined: an interrupt
/// might have written there.
std::string compare(const Trial& trial, Fence& fence);

} // namespace shadowmon::test
