// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/base/result.h"

#include <cstdint>
#include <span>

namespace shadowmon {

/// The limits of the hooks that have SM_HOOK_LIMITED, by hook id, in the region's memory.
class HookLimits {
  public:
    explicit HookLimits(std::span<sm_limit> limits) : limits_(limits) {}

    /// At most `events` in every `window` TSC ticks of the guest. To be called before the hook is
    /// in the table. Fails if more events are asked for than can be counted, or for a window of
    /// fewer than two ticks.
    Status set(uint32_t id, uint32_t events, uint64_t window);

    /// Another number of events, at any time; it counts from the next hit on.
    Status change(uint32_t id, uint32_t events);

  private:
    std::span<sm_limit> limits_;
};

} // namespace shadowmon
