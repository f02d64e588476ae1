// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/hook_counters.h"

#include <cassert>

namespace shadowmon {

HookCounters::HookCounters(std::vector<std::span<const uint64_t>> slots, uint32_t capacity)
    : slots_(std::move(slots)), before_(capacity) {
    for ([[maybe_unused]] auto counters : slots_)
        assert(counters.size() == size_t{SM_COUNTERS} * capacity);
}

HookCounts HookCounters::sum(uint32_t id) const {
    assert(id < before_.size());
    uint64_t sums[SM_COUNTERS] = {};
    for (std::span<const uint64_t> counters : slots_)
        for (size_t kind = 0; kind < SM_COUNTERS; kind++)
            sums[kind] += __atomic_load_n(&counters[kind * before_.size() + id], __ATOMIC_RELAXED);
    return {sums[SM_COUNTER_RECORDED], sums[SM_COUNTER_LOST], sums[SM_COUNTER_LIMITED]};
}

HookCounts HookCounters::read(uint32_t id) const {
    HookCounts now = sum(id);
    const HookCounts& before = before_[id];
    return {now.recorded - before.recorded, now.lost - before.lost, now.limited - before.limited};
}

void HookCounters::restart(uint32_t id) { before_[id] = sum(id); }

} // namespace shadowmon
