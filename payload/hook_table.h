/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SHADOWMONITOR_PAYLOAD_HOOK_TABLE_H
#define SHADOWMONITOR_PAYLOAD_HOOK_TABLE_H

#include "abi/config.h"
#include "payload/address.h"

namespace shadowmon::payload {

/* The hook whose INT pushed this address of return; nullptr if it is none of ours. */
template <class Hw> const sm_hook* find_hook(const Hw& hw, u64 rip) {
    const sm_hook* table = hw.hooks();
    const u32 mask = hw.config().hook_mask;
    u32 index = static_cast<u32>(rip * SM_HOOK_HASH >> 32) & mask;
    /* A full table has no entry that ends a probe: stop when all have been looked at. */
    for (u32 left = mask;; left--) {
        const sm_hook* hook = &table[index];
        const u64 found = __atomic_load_n(&hook->rip, __ATOMIC_ACQUIRE);
        if (found == rip) [[likely]]
            return rip > SM_HOOK_REMOVED ? hook : nullptr;
        if (found == 0 || left == 0)
            return nullptr;
        index = (index + 1) & mask;
    }
}

} // namespace shadowmon::payload

#endif
