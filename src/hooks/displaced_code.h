// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/displace.h"

#include <map>
#include <span>
#include <vector>

namespace shadowmon {

/// Where the gate sends the guest on after a hook.
struct Resume {
    Gva if1; ///< for a site entered with interrupts on
    Gva if0; ///< with interrupts off
};

/// The code of the displaced-instruction pages: pieces that come and go with their hooks. What is
/// between them is INT3. The bytes are its own until publish_to() gives it the region's; from then
/// on it writes while the guest runs, a piece always before anything leads to it. One thread
/// uses it.
class DisplacedCode {
  public:
    /// Code that will run at `base`, at most `max_size` bytes.
    DisplacedCode(Gva base, size_t max_size);
    DisplacedCode(DisplacedCode&&) = default;
    DisplacedCode& operator=(DisplacedCode&&) = default;

    /// Copies the code to `area`, which is max_size bytes long, lies at `base` in the guest and
    /// has to outlive this, and works on that from then on.
    void publish_to(std::span<std::byte> area);

    /// Adds both pieces for a run of instructions; on failure nothing is added.
    Result<Resume> add(const Displaced& displaced);

    /// The same for one instruction.
    Result<Resume> add(const Instruction& instruction, std::span<const std::byte> bytes);

    /// Gives back what add() took, once no vCPU can be in it or on its way to it: the hook's bytes
    /// are gone and every vCPU has been seen outside of the compartment since. False if there is
    /// no such pair of pieces.
    bool free(const Resume& resume);

    /// Up to the end of the last piece.
    std::span<const std::byte> bytes() const;

    size_t taken() const { return taken_; } ///< bytes of all pieces
    size_t max_size() const { return area_.size(); }

  private:
    struct Range {
        size_t offset, size;
    };
    struct Pair {
        Range if1, if0;
    };

    Result<Range> emit(const Displaced& displaced, bool interrupts_on);
    Result<Range> take(size_t offset, std::span<const std::byte> piece);
    void give_back(Range range);

    Gva base_;
    std::vector<std::byte> own_;
    std::span<std::byte> area_;
    std::map<size_t, size_t> free_; ///< offset -> size; never two that touch
    std::map<size_t, Pair> pairs_;  ///< by the offset of if1
    size_t taken_ = 0;
};

} // namespace shadowmon
