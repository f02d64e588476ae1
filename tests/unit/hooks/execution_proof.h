// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/unit/hooks/trial.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace shadowmon::test {

/// Holds displaced code against the original: executes both where they may run in user mode,
/// with random state in several rounds (with interrupts on and off, within and out of reach of a
/// 32-bit displacement), and reads the displaced form where not. Counts by mnemonic.
class ExecutionProof {
  public:
    explicit ExecutionProof(uint64_t seed) : random_(seed) {}

    /// Changes each piece before it is executed or read: to see the proof fail.
    using Damage = std::function<void(std::vector<std::byte>&)>;
    void damage_with(Damage damage) { damage_ = std::move(damage); }

    void check(const Displaced& displaced);

    struct Tally {
        uint64_t executed = 0; ///< ended without a fault at least once
        uint64_t faulted = 0;  ///< executed, and ended with the same fault each time
        uint64_t read = 0;     ///< not for user mode, or not of this CPU
        uint64_t different = 0;
    };
    const std::map<std::string, Tally>& tallies() const { return tallies_; }
    Tally total() const;
    const std::vector<std::string>& differences() const { return differences_; } ///< the first few

    /// One line for each mnemonic.
    std::string table() const;

  private:
    enum class Outcome { executed, faulted, read, different };
    Outcome execute(const Displaced& displaced);
    Outcome read(const Displaced& displaced);
    Outcome different(const Displaced& displaced, const std::string& how);

    Fence fence_;
    Random random_;
    Damage damage_;
    std::map<std::string, Tally> tallies_;
    std::vector<std::string> differences_;
};

/// Runs `body` in a child process, whose output is this one's; true if it ended with 0.
bool in_child(const std::function<int()>& body);

} // namespace shadowmon::test
