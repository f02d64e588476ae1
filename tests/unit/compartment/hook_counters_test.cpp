// SPDX-License-Identifier: GPL-2.0-or-later
// The host's side of the payload's counters and limits.
#include "src/compartment/hook_counters.h"
#include "src/compartment/hook_limits.h"

#include "payload/rate_limit.h"

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

TEST(HookLimits, WindowsAreAsLongAsAskedFor) {
    std::vector<sm_limit> limits(2);
    HookLimits host(limits);
    for (uint64_t window : {uint64_t{2}, uint64_t{3}, uint64_t{1000}, uint64_t{1} << 20,
                            uint64_t{2'400'000'000}, uint64_t{1} << 40}) {
        ASSERT_TRUE(host.set(1, 1, window));
        unsigned admitted = 0;
        for (uint64_t half = 0; half < 2000; half++)
            admitted += payload::admit(limits[1], half * window / 2);
        EXPECT_GE(admitted, 1000u) << window;
        EXPECT_LE(admitted, 1001u) << window;
    }
    EXPECT_FALSE(host.set(1, 1, 1));
    EXPECT_FALSE(host.set(1, SM_LIMIT_MAX_EVENTS + 1, 1000));
}

TEST(HookLimits, ChangesWhileItIsUsed) {
    std::vector<sm_limit> limits(1);
    HookLimits host(limits);
    ASSERT_TRUE(host.set(0, 1, 1000));
    EXPECT_TRUE(payload::admit(limits[0], 5));
    EXPECT_FALSE(payload::admit(limits[0], 6));
    ASSERT_TRUE(host.change(0, 2));
    EXPECT_TRUE(payload::admit(limits[0], 7));
    EXPECT_FALSE(payload::admit(limits[0], 8));
    EXPECT_FALSE(host.change(0, SM_LIMIT_MAX_EVENTS + 1));
    ASSERT_TRUE(host.change(0, 0));
    EXPECT_FALSE(payload::admit(limits[0], 2000));
}

} // namespace
} // namespace shadowmon
