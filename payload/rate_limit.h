/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SHADOWMONITOR_PAYLOAD_RATE_LIMIT_H
#define SHADOWMONITOR_PAYLOAD_RATE_LIMIT_H

#include "abi/config.h"
#include "payload/address.h"

namespace shadowmon::payload {

/*
 * May one more event of this hook be recorded? Called by any number of vCPUs at once; writes only
 * if it says yes.
 *
 * A vCPU that is a few windows behind, because it was stopped after it had taken the time, counts
 * in the window of the others. One that is elsewhere in time begins a window of its own: the TSC
 * is the guest's to set, and whatever a guest does to it, it can make a limit loose, and never
 * make it stay shut.
 */
inline constexpr u64 windows_behind = 7;

inline bool admit(sm_limit& limit, u64 tsc) {
    constexpr u64 count_mask = (u64{1} << SM_LIMIT_COUNT_BITS) - 1;
    constexpr u64 window_mask = ~u64{0} >> SM_LIMIT_COUNT_BITS;
    static_assert(SM_LIMIT_MAX_EVENTS <= count_mask);
    __extension__ using u128 = unsigned __int128;
    const u64 window = static_cast<u64>(u128{tsc} * limit.windows_per_tick >> 64) & window_mask;
    const u32 most = __atomic_load_n(&limit.events, __ATOMIC_RELAXED);
    u64 state = __atomic_load_n(&limit.state, __ATOMIC_RELAXED);
    for (;;) {
        const u64 current = state >> SM_LIMIT_COUNT_BITS;
        const bool is_current = ((current - window) & window_mask) <= windows_behind;
        if ((is_current ? state & count_mask : 0) >= most)
            return false;
        const u64 next = is_current ? state + 1 : window << SM_LIMIT_COUNT_BITS | 1;
        if (__atomic_compare_exchange_n(&limit.state, &state, next, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return true;
    }
}

} // namespace shadowmon::payload

#endif
