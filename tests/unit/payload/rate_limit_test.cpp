/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Never more events in a window than the limit, never fewer than may be, whatever the TSC does. */
#include "payload/rate_limit.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace shadowmon::payload::test {
namespace {

constexpr u64 window = u64{1} << 20;

sm_limit limit_of(u32 events) { return {0, u64{1} << 44, events, {}}; }

u64 admitted(sm_limit& limit, u64 tsc, int tries) {
    u64 n = 0;
    for (int i = 0; i < tries; i++)
        n += admit(limit, tsc + static_cast<u64>(i));
    return n;
}

TEST(RateLimit, EveryWindowHasItsOwn) {
    sm_limit limit = limit_of(5);
    for (u64 n : {u64{8}, u64{9}, u64{10}, u64{90}, u64{1} << 39, u64{1} << 42}) {
        EXPECT_EQ(admitted(limit, n * window, 100), 5u) << n;
        EXPECT_EQ(admitted(limit, (n + 1) * window - 100, 100), 0u) << n;
    }
}

TEST(RateLimit, NothingAndEverything) {
    sm_limit none = limit_of(0);
    EXPECT_EQ(admitted(none, 0, 10) + admitted(none, window, 10), 0u);
    sm_limit most = limit_of(SM_LIMIT_MAX_EVENTS);
    for (u64 i = 0; i < SM_LIMIT_MAX_EVENTS; i++)
        ASSERT_TRUE(admit(most, 0));
    EXPECT_FALSE(admit(most, 0));
    EXPECT_TRUE(admit(most, window)) << "and the count has not spoilt the number of the window";
}

TEST(RateLimit, ChangesAtOnce) {
    sm_limit limit = limit_of(2);
    EXPECT_EQ(admitted(limit, 0, 10), 2u);
    limit.events = 6;
    EXPECT_EQ(admitted(limit, 0, 10), 4u);
    limit.events = 3;
    EXPECT_EQ(admitted(limit, 0, 10), 0u);
    EXPECT_EQ(admitted(limit, window, 10), 3u);
}

TEST(RateLimit, VcpuThatIsALittleBehindBringsNoWindowBack) {
    sm_limit limit = limit_of(4);
    const u64 edge = 10 * window;
    u64 n = 0;
    for (u64 i = 0; i < 100; i++)
        n += admit(limit, i % 2 ? edge + i : edge - i - 1);
    EXPECT_LE(n, 2 * 4u) << "in two windows";
    EXPECT_GE(n, 4u);
    EXPECT_EQ(admitted(limit, edge - windows_behind * window, 10), 0u);
}

TEST(RateLimit, TscThatGoesBackDoesNotShutItForEver) {
    sm_limit limit = limit_of(3);
    for (u64 n : {u64{1} << 36, u64{200}, u64{0xfff}, u64{20}})
        EXPECT_EQ(admitted(limit, n * window, 10), 3u) << n;
    /* The numbers of the windows wrap: the first one comes after the last. */
    limit.windows_per_tick = u64{1} << 63;
    EXPECT_EQ(admitted(limit, (u64{1} << 41) - 1, 1), 1u);
    EXPECT_EQ(admitted(limit, u64{1} << 41, 1), 1u);
    EXPECT_EQ(limit.state, 1u);
    EXPECT_EQ(admitted(limit, (u64{1} << 41) - 1, 1), 1u);
    EXPECT_EQ(limit.state, 2u) << "one that is behind counts in the first one";
}

TEST(RateLimit, ThreadsShareIt) {
    constexpr u32 events = 1000;
    constexpr u64 windows = 5, per_window = 100000, step = window / per_window;
    sm_limit limit = limit_of(events);
    std::atomic<u64> clock{0}, n{0};
    const auto run = [](auto what) {
        std::vector<std::thread> vcpus;
        for (int i = 0; i < 4; i++)
            vcpus.emplace_back(what);
        for (std::thread& vcpu : vcpus)
            vcpu.join();
    };
    run([&] {
        for (u64 now; (now = clock++) < windows * per_window;)
            n += admit(limit, now * step);
    });
    EXPECT_LE(n.load(), windows * events);
    EXPECT_GE(n.load(), events);

    limit = limit_of(events);
    n = 0;
    run([&] {
        for (u32 k = 0; k < 2 * events; k++)
            n += admit(limit, 5 * window);
    });
    EXPECT_EQ(n.load(), events) << "within one window exactly so many";
}

} // namespace
} // namespace shadowmon::payload::test
