// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/event.h>

#include <cstdint>
#include <span>
#include <vector>

namespace shadowmon {

class RingReader;

/// What one ring did not deliver, by type of event.
struct RingLoss {
    unsigned ring = 0;
    TypeCounts dropped{};   ///< no room in the ring
    TypeCounts abandoned{}; ///< recorded, but the ring was found broken
    uint64_t missing = 0;   ///< sequence numbers that no record and no notice of loss accounts for

    uint64_t total() const;
};

/// Everything that was lost up to the moment when it was asked for: per ring and type, and why.
/// The producer's own counters are the authority, so losses count that no Lost event has told of
/// yet. Plain data afterwards.
class LostCounter {
  public:
    LostCounter() = default;
    explicit LostCounter(std::span<const RingReader> rings);

    /// Rings that lost something, in the order of their index.
    const std::vector<RingLoss>& rings() const { return rings_; }
    TypeCounts by_type() const; ///< without the missing ones, whose type nobody knows
    uint64_t total() const;

    /// Of the dropped ones, those that no Lost event has reported yet.
    uint64_t unreported() const { return unreported_; }
    unsigned broken_rings() const { return broken_rings_; }

  private:
    std::vector<RingLoss> rings_;
    uint64_t unreported_ = 0;
    unsigned broken_rings_ = 0;
};

} // namespace shadowmon
