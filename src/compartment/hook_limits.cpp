// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/hook_limits.h"

#include <cassert>

namespace shadowmon {

Status HookLimits::set(uint32_t id, uint32_t events, uint64_t window) {
    assert(id < limits_.size());
    if (window < 2)
        return failf("a limit per {} TSC ticks: two at least are needed", window);
    // Rounded down: the windows are longer than asked for, by less than one part in 2^32 while
    // they are shorter than 2^32 ticks.
    uint64_t windows_per_tick = (window & (window - 1)) == 0
                                    ? uint64_t{1} << (64 - __builtin_ctzll(window))
                                    : ~uint64_t{0} / window;
    __atomic_store_n(&limits_[id].windows_per_tick, windows_per_tick, __ATOMIC_RELAXED);
    __atomic_store_n(&limits_[id].state, 0, __ATOMIC_RELAXED);
    return change(id, events);
}

Status HookLimits::change(uint32_t id, uint32_t events) {
    assert(id < limits_.size());
    if (events > SM_LIMIT_MAX_EVENTS)
        return failf("a limit of {} events: at most {} are possible", events, SM_LIMIT_MAX_EVENTS);
    __atomic_store_n(&limits_[id].events, events, __ATOMIC_RELEASE);
    return {};
}

} // namespace shadowmon
