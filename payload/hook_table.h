/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SHADOWMONITOR_PAYLOAD_HOOK_TABLE_H
#define SHADOWMONITOR_PAYLOAD_HOOK_TABLE_H

#include "abi/config.h"
#include "payload/address.h"

namespace shadowmon::payload {

/* sm_hook_index(), in bytes of the table. */
inline u64 hook_offset(u64 rip, u64 offset_mask) {
    static_assert(sizeof(sm_hook) == 1 << 5);
    return static_cast<u32>(rip) * SM_HOOK_HASH >> (SM_HOOK_HASH_SHIFT - 5) & offset_mask;
}

inline const sm_hook* at_offset(const sm_hook* table, u64 offset) {
    return reinterpret_cast<const sm_hook*>(reinterpret_cast<const u8*>(table) + offset);
}

/*
 * The hook that left this address of return; nullptr if it is none of ours. Of 0 and
 * SM_HOOK_REMOVED what it finds is no hook, which its type says.
 */
template <class Hw> const sm_hook* find_hook(const Hw& hw, u64 rip) {
    const sm_hook* table = hw.hooks();
    const u64 offset_mask = hw.config().derived.hook_offset_mask;
    u64 offset = hook_offset(rip, offset_mask);
    const sm_hook* hook = at_offset(table, offset);
    u64 found = __atomic_load_n(&hook->rip, __ATOMIC_ACQUIRE);
    if (found == rip) [[likely]]
        return hook;
    /* A full table has no entry that ends a probe: stop when all have been looked at. */
    for (u32 left = hw.config().hook_mask; found != 0 && left != 0; left--) {
        offset = (offset + sizeof(sm_hook)) & offset_mask;
        hook = at_offset(table, offset);
        found = __atomic_load_n(&hook->rip, __ATOMIC_ACQUIRE);
        if (found == rip)
            return hook;
    }
    return nullptr;
}

} // namespace shadowmon::payload

#endif
