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

/* A load (acquire) and a comparison in one instruction, which the compiler does not make of them.
 */
inline bool is_of(const sm_hook& hook, u64 rip) {
    bool same;
    asm volatile("cmpq %2, %1" : "=@cce"(same) : "m"(hook.rip), "re"(rip) : "memory");
    return same;
}

/* Have type and flags, in one word, this value? As few instructions as that. */
inline bool is_of_kind(const sm_hook& hook, u32 kind) {
    bool same;
    asm("cmpl %3, %c2(%1)"
        : "=@cce"(same)
        : "r"(&hook), "i"(offsetof(sm_hook, type)), "ri"(kind), "m"(hook));
    return same;
}

/*
 * The hook that left this address of return; nullptr if it is none of ours. Of 0 and
 * SM_HOOK_REMOVED what it finds is no hook, which its type says.
 */
template <class Hw> const sm_hook* find_hook(const Hw& hw, u64 rip) {
    const sm_hook* hook = hw.hook_at(hook_offset(rip, hw.config().derived.hook_offset_mask));
    if (!hook)
        __builtin_unreachable();
    if (is_of(*hook, rip)) [[likely]]
        return hook;
    /* A full table has no entry that ends a probe: stop when all have been looked at. */
    for (u32 left = hw.config().hook_mask; left != 0 && !is_of(*hook, 0); left--) {
        hook = hw.hook_at(hw.offset_of(hook + 1) & hw.config().derived.hook_offset_mask);
        if (is_of(*hook, rip))
            return hook;
    }
    return nullptr;
}

} // namespace shadowmon::payload

#endif
