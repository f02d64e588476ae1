// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"

#include <cstdint>
#include <span>
#include <vector>

namespace shadowmon {

/// How often a hook was hit, by what became of it.
struct HookCounts {
    uint64_t recorded = 0;
    uint64_t lost = 0;    ///< the ring had no room
    uint64_t limited = 0; ///< above the hook's limit

    uint64_t hits() const { return recorded + lost + limited; }
};

/// Reads the counters that the payload keeps for each hook id in each slot. Never writes to them:
/// an id that is given to another hook starts from zero by what is subtracted here.
class HookCounters {
  public:
    /// One array for each slot, as counters_in() gives them.
    HookCounters(std::vector<std::span<const uint64_t>> slots, uint32_t capacity);

    /// Of all slots, since the id was last restarted.
    HookCounts read(uint32_t id) const;

    /// From now on counts from zero. Hits that are under way may be counted after it.
    void restart(uint32_t id);

  private:
    HookCounts sum(uint32_t id) const;

    std::vector<std::span<const uint64_t>> slots_;
    std::vector<HookCounts> before_; ///< by id
};

} // namespace shadowmon
