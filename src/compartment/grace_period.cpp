// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/grace_period.h"

#include <algorithm>

namespace shadowmon {

namespace {

uint64_t claims_of(const sm_slot* slot) { return __atomic_load_n(&slot->claims, __ATOMIC_ACQUIRE); }

bool is_busy(const sm_slot* slot) { return __atomic_load_n(&slot->busy, __ATOMIC_ACQUIRE) != 0; }

} // namespace

GracePeriod::GracePeriod(std::span<const sm_slot* const> slots) {
    // What this thread has written must be seen by who claims a slot after it was seen idle.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (const sm_slot* slot : slots) {
        uint64_t claims = claims_of(slot);
        if (is_busy(slot))
            held_.push_back({slot, claims});
    }
}

bool GracePeriod::over() {
    // A slot is counted right after it was claimed: the first increase may be of who holds it now.
    std::erase_if(held_, [](const Held& held) {
        return !is_busy(held.slot) || claims_of(held.slot) - held.claims >= 2;
    });
    return held_.empty();
}

} // namespace shadowmon
