// SPDX-License-Identifier: GPL-2.0-or-later
// The host's side of the payload's counters.
#include "src/compartment/hook_counters.h"

#include <gtest/gtest.h>

#include <vector>

namespace shadowmon {
namespace {

TEST(HookCounters, AddsUpAllSlots) {
    constexpr uint32_t capacity = 4;
    std::vector<std::vector<uint64_t>> slots(3, std::vector<uint64_t>(SM_COUNTERS * capacity));
    HookCounters counters({slots.begin(), slots.end()}, capacity);
    for (uint64_t i = 0; i < 3; i++) {
        slots[i][SM_COUNTER_RECORDED * capacity + 2] = 100 + i;
        slots[i][SM_COUNTER_LOST * capacity + 2] = 10 + i;
        slots[i][SM_COUNTER_LIMITED * capacity + 2] = 1 + i;
        slots[i][SM_COUNTER_RECORDED * capacity + 3] = 77;
    }
    HookCounts counts = counters.read(2);
    EXPECT_EQ(counts.recorded, 303u);
    EXPECT_EQ(counts.lost, 33u);
    EXPECT_EQ(counts.limited, 6u);
    EXPECT_EQ(counts.hits(), 342u);
    EXPECT_EQ(counters.read(1).hits(), 0u);
    counters.restart(2);
    EXPECT_EQ(counters.read(2).hits(), 0u);
    slots[1][SM_COUNTER_LOST * capacity + 2]++;
    EXPECT_EQ(counters.read(2).lost, 1u);
    EXPECT_EQ(counters.read(3).recorded, 231u) << "of an id that was not restarted";
}

} // namespace
} // namespace shadowmon
