// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace shadowmon {

/// For each address of a stretch of code, which other parts of it could lead there: found by the
/// bytes alone, whether or not they turn out to be an operand. It costs the host a fifth of a sweep
/// over instructions, which is then left to the few places where it matters.
///
/// Says too much, never too little, of what CodeHead knows: relative branches of 16 and 32 bits,
/// displacements of 32 bits, immediates of 32 and 64. Branches of 8 bits are not in it: whoever
/// asks looks around by himself.
class PossibleSources {
  public:
    /// `code` is at `start`, of which the lower 32 bits matter; less than 2 GiB.
    PossibleSources(uint64_t start, std::span<const std::byte> code);

    struct Source {
        uint32_t target; ///< offset in the code
        uint32_t at;     ///< offset of the four bytes, or of the two, which lead there
    };

    /// Those of the targets in a range of the code, which is not empty. Valid until the next call.
    std::span<const Source> of(uint32_t from, uint32_t to);

    /// Two bytes behind what may be a branch of 16 bits, wherever that leads: seldom there are any.
    std::span<const uint32_t> narrow() const { return narrow_; }

  private:
    void find(uint64_t start, std::span<const std::byte> code);
    void sort_into_blocks(size_t code_size);

    std::vector<Source> sources_;  ///< by block of the target
    std::vector<uint32_t> blocks_; ///< where each block's sources begin; one more than there are
    std::vector<bool> sorted_;     ///< blocks whose sources are in the order of their targets
    std::vector<uint32_t> narrow_;
};

} // namespace shadowmon
