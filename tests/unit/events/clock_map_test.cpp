// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/clock_map.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace shadowmon {
namespace {

constexpr uint64_t now = 1'795'000'000'000'000'000; // some day in 2026

TEST(ClockMap, DefaultMapsAllToZero) {
    EXPECT_EQ(ClockMap().to_realtime_ns(0), 0u);
    EXPECT_EQ(ClockMap().to_realtime_ns(UINT64_MAX), 0u);
}

TEST(ClockMap, CountsTicksFromTheSample) {
    const ClockMap map = *ClockMap::make({1'000'000, now, 2'000'000});
    EXPECT_EQ(map.to_realtime_ns(1'000'000), now);
    EXPECT_EQ(map.to_realtime_ns(1'000'002), now + 1);
    EXPECT_EQ(map.to_realtime_ns(1'000'003), now + 1);
    EXPECT_EQ(map.to_realtime_ns(999'999), now - 1); // rounds down before the sample, too
    EXPECT_EQ(map.to_realtime_ns(1'000'000 + 2'000'000'000), now + 1'000'000'000);
}

TEST(ClockMap, HasNoRoundingErrorThatGrows) {
    // A thousand years of a 2.999999 GHz TSC: a double would be wrong by microseconds.
    const ClockMap map = *ClockMap::make({0, 0, 2'999'999});
    EXPECT_EQ(map.to_realtime_ns(2'999'999ull * 1000 * 1'000'000), 1'000'000ull * 1'000'000'000);
}

TEST(ClockMap, StaysWithinWhatADateCanShow) {
    const ClockMap slow = *ClockMap::make({UINT64_MAX, now, 1});
    EXPECT_EQ(slow.to_realtime_ns(0), 0u);
    const ClockMap fast = *ClockMap::make({0, now, 1});
    EXPECT_EQ(fast.to_realtime_ns(UINT64_MAX), static_cast<uint64_t>(INT64_MAX));
    const ClockMap edge = *ClockMap::make({0, INT64_MAX, UINT32_MAX});
    EXPECT_EQ(edge.to_realtime_ns(UINT64_MAX), static_cast<uint64_t>(INT64_MAX));
}

TEST(ClockMap, RefusesSamplesWithoutSense) {
    EXPECT_FALSE(ClockMap::make({0, now, 0}));
    EXPECT_FALSE(ClockMap::make({0, uint64_t{1} << 63, 1}));
    ClockMap map = *ClockMap::make({1000, now, 1'000'000});
    EXPECT_FALSE(map.resync({999, now, 1'000'000}));
    EXPECT_FALSE(map.resync({2000, now, 0}));
    EXPECT_EQ(map.to_realtime_ns(3000), now + 2000);
}

TEST(ClockMap, ResyncKeepsEarlierTimesAndTakesTheNewOnes) {
    ClockMap map = *ClockMap::make({0, now, 1'000'000});
    ASSERT_TRUE(map.resync({1000, now + 1500, 1'000'000}));
    EXPECT_EQ(map.to_realtime_ns(999), now + 999);
    EXPECT_EQ(map.to_realtime_ns(1000), now + 1500);
}

TEST(ClockMap, StandsStillWhenTheNewTimeIsEarlier) {
    ClockMap map = *ClockMap::make({0, now, 1'000'000});
    ASSERT_TRUE(map.resync({1000, now + 400, 1'000'000}));
    EXPECT_EQ(map.to_realtime_ns(1000), now + 1000);
    EXPECT_EQ(map.to_realtime_ns(1600), now + 1000);
    EXPECT_EQ(map.to_realtime_ns(1700), now + 1100);
}

TEST(ClockMap, ResyncOfTheDefaultStartsIt) {
    ClockMap map;
    ASSERT_TRUE(map.resync({500, now, 1'000'000}));
    EXPECT_EQ(map.to_realtime_ns(600), now + 100);
}

RC_GTEST_PROP(ClockMapProperty, IsMonotoneForAnySamplesAndTimes, ()) {
    ClockMap map =
        *ClockMap::make({*rc::gen::arbitrary<uint64_t>(), *rc::gen::arbitrary<uint64_t>() >> 1,
                         *rc::gen::inRange<uint32_t>(1, UINT32_MAX)});
    const auto resyncs = *rc::gen::inRange(0, 4);
    for (int i = 0; i < resyncs; ++i) {
        // Refused where it is older; nothing changes then.
        static_cast<void>(
            map.resync({*rc::gen::arbitrary<uint64_t>(), *rc::gen::arbitrary<uint64_t>() >> 1,
                        *rc::gen::inRange<uint32_t>(1, UINT32_MAX)}));
    }
    auto times = *rc::gen::container<std::vector<uint64_t>>(20, rc::gen::arbitrary<uint64_t>());
    std::sort(times.begin(), times.end());
    uint64_t last = 0;
    for (const uint64_t tsc : times) {
        const uint64_t ns = map.to_realtime_ns(tsc);
        RC_ASSERT(ns >= last);
        RC_ASSERT(ns <= static_cast<uint64_t>(INT64_MAX));
        last = ns;
    }
}

// What was given out never lies after what is given out for a later TSC, resync or not.
RC_GTEST_PROP(ClockMapProperty, IsMonotoneAcrossResync, ()) {
    const auto step = [] { return *rc::gen::inRange<uint64_t>(0, 1'000'000'000); };
    uint64_t tsc = step();
    ClockMap map = *ClockMap::make({tsc, now, 1'000'000});
    uint64_t last = 0;
    for (int i = 0; i < 30; ++i) {
        tsc += step();
        if (*rc::gen::inRange(0, 3) == 0) {
            const auto ns = now + *rc::gen::inRange<uint64_t>(0, 30'000'000'000);
            RC_ASSERT(map.resync({tsc, ns, *rc::gen::inRange<uint32_t>(500'000, 4'000'000)}));
        }
        const uint64_t ns = map.to_realtime_ns(tsc);
        RC_ASSERT(ns >= last);
        last = ns;
    }
}

} // namespace
} // namespace shadowmon
