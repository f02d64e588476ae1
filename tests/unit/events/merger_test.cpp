// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/merger.h"

#include "tests/unit/events/test_rings.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

namespace shadowmon {
namespace {

using namespace std::chrono_literals;
using test::produce;
using test::TestRings;
using test::Trip;

class MergerTest : public ::testing::Test {
  protected:
    Merger make(unsigned slots) {
        rings_ = std::make_unique<TestRings>(slots);
        return Merger(rings_->readers(), rings_->slot_pointers(), Decoder(),
                      [this] { return now_; }, {.max_wait = 100ms});
    }

    /// The TSCs that a poll gives out; those that are late as negative numbers.
    static std::vector<int64_t> poll(Merger& merger) {
        std::vector<int64_t> seen;
        merger.poll([&](const Event& e) { add(seen, e); });
        return seen;
    }

    static std::vector<int64_t> drain(Merger& merger) {
        std::vector<int64_t> seen;
        merger.drain([&](const Event& e) { add(seen, e); });
        return seen;
    }

    static void add(std::vector<int64_t>& seen, const Event& e) {
        const auto tsc = static_cast<int64_t>(e.tsc);
        seen.push_back(e.late ? -tsc : tsc);
    }

    using Tscs = std::vector<int64_t>;
    std::unique_ptr<TestRings> rings_;
    std::chrono::nanoseconds now_ = 1h;
};

TEST_F(MergerTest, NothingComesOfNothing) {
    Merger merger = make(4);
    EXPECT_EQ(poll(merger), Tscs{});
    EXPECT_FALSE(merger.holding());
    EXPECT_EQ(drain(merger), Tscs{});
    EXPECT_EQ(merger.lost().total(), 0u);
}

TEST_F(MergerTest, MergesByTime) {
    Merger merger = make(3);
    for (const uint64_t tsc : {10, 40, 50})
        produce(*rings_, 0, tsc);
    for (const uint64_t tsc : {20, 30, 60})
        produce(*rings_, 2, tsc);
    std::vector<uint32_t> from;
    EXPECT_EQ(merger.poll([&](const Event& e) { from.push_back(e.ring); }), 6u);
    EXPECT_EQ(from, (std::vector<uint32_t>{0, 2, 2, 0, 0, 2}));
    EXPECT_EQ(poll(merger), Tscs{});
    EXPECT_EQ(rings_->ring(0).tail, rings_->ring(0).head);
}

TEST_F(MergerTest, ABusySlotHoldsBackWhatMayComeAfterItsOwn) {
    Merger merger = make(2);
    produce(*rings_, 0, 10);
    produce(*rings_, 1, 20);
    Trip trip(*rings_, 0);
    trip.claim();
    trip.stamp(30);
    produce(*rings_, 1, 40);
    // Slot 0 can still make an event of any time after 10.
    EXPECT_EQ(poll(merger), Tscs{10});
    EXPECT_TRUE(merger.holding());
    trip.write(SM_EVENT_SWITCH);
    trip.commit();
    trip.release();
    EXPECT_EQ(poll(merger), (Tscs{20, 30, 40}));
    EXPECT_FALSE(merger.holding());
}

TEST_F(MergerTest, TheStampOfTheSlotIsABetterWatermark) {
    Merger merger = make(2);
    produce(*rings_, 1, 20);
    produce(*rings_, 1, 40);
    Trip trip(*rings_, 0);
    trip.claim();
    rings_->slot(0).tsc = 30;
    EXPECT_EQ(poll(merger), Tscs{20});
}

TEST_F(MergerTest, AStuckSlotIsLeftBehindAfterTheWaitAndItsEventIsLate) {
    Merger merger = make(2);
    Trip trip(*rings_, 0);
    trip.claim();
    trip.stamp(30);
    produce(*rings_, 1, 40);
    EXPECT_EQ(poll(merger), Tscs{});
    now_ += 100ms;
    EXPECT_EQ(poll(merger), Tscs{}) << "not longer than the wait";
    now_ += 1ns;
    EXPECT_EQ(poll(merger), Tscs{40});
    // From here on the slot holds nothing back, until it starts anew.
    produce(*rings_, 1, 50);
    EXPECT_EQ(poll(merger), Tscs{50});

    trip.write(SM_EVENT_SWITCH);
    trip.commit();
    trip.release();
    produce(*rings_, 1, 60);
    EXPECT_EQ(poll(merger), (Tscs{-30, 60}));
    EXPECT_EQ(merger.late(), 1u);

    Trip next(*rings_, 0);
    next.claim();
    produce(*rings_, 1, 70);
    EXPECT_EQ(poll(merger), Tscs{});
}

TEST_F(MergerTest, ShortClaimsInARowAreNotAStuckOne) {
    Merger merger = make(2);
    for (uint64_t tsc = 10; tsc < 100; tsc += 10) {
        Trip trip(*rings_, 0);
        trip.claim();
        produce(*rings_, 1, tsc + 5);
        trip.stamp(tsc);
        now_ += 60ms;
        poll(merger);
        trip.write(SM_EVENT_SWITCH);
        trip.commit();
        trip.release();
    }
    poll(merger);
    EXPECT_EQ(merger.late(), 0u);
    EXPECT_FALSE(merger.holding());
}

TEST_F(MergerTest, DrainWaitsForNobody) {
    Merger merger = make(2);
    Trip trip(*rings_, 0);
    trip.claim();
    produce(*rings_, 1, 40);
    EXPECT_EQ(poll(merger), Tscs{});
    EXPECT_EQ(drain(merger), Tscs{40});
    EXPECT_FALSE(merger.holding());
}

TEST_F(MergerTest, ABrokenRingIsToldOfOnceAndTheOthersGoOn) {
    Merger merger = make(2);
    produce(*rings_, 0, 10);
    produce(*rings_, 0, 20);
    produce(*rings_, 1, 30);
    rings_->data(0)[96] = std::byte{15}; // type of the second record
    EXPECT_EQ(poll(merger), (Tscs{10, 30}));
    const std::vector<Error> errors = merger.take_errors();
    ASSERT_EQ(errors.size(), 1u);
    EXPECT_EQ(errors[0].message(), "ring 0, offset 0x60: unknown event type 15");

    produce(*rings_, 0, 40);
    Trip stuck(*rings_, 0); // of the broken ring: holds nobody back
    stuck.claim();
    produce(*rings_, 1, 50);
    EXPECT_EQ(poll(merger), Tscs{50});
    EXPECT_TRUE(merger.take_errors().empty());
    EXPECT_EQ(merger.lost().broken_rings(), 1u);
    EXPECT_EQ(merger.lost().total(), 2u);
}

TEST_F(MergerTest, AGuestThatSetsItsTscBackIsNotLateForEver) {
    Merger merger = make(2);
    produce(*rings_, 0, 1'000'000);
    produce(*rings_, 1, 999'999);
    EXPECT_EQ(poll(merger), (Tscs{999'999, 1'000'000}));
    produce(*rings_, 0, 100);
    produce(*rings_, 1, 101);
    EXPECT_EQ(poll(merger), (Tscs{100, 101}));
}

TEST_F(MergerTest, AnAbsurdTimeStampComesOutAndDoesNotStopTheRest) {
    Merger merger = make(2);
    produce(*rings_, 0, 10);
    produce(*rings_, 0, uint64_t{1} << 62);
    produce(*rings_, 0, 20);
    produce(*rings_, 1, 30);
    size_t seen = poll(merger).size();
    for (int i = 0; i < 3; ++i)
        seen += poll(merger).size();
    EXPECT_EQ(seen, 4u);
    EXPECT_FALSE(merger.holding());
}

// Two vCPUs whose TSCs the guest has set far apart: the one with the low TSC is in its slot
// whenever somebody looks, so its watermark always holds the other back.
TEST_F(MergerTest, NoEventWaitsMuchLongerThanTheLimit) {
    Merger merger = make(2);
    produce(*rings_, 1, 1'000'000'000);
    size_t high = 0;
    for (uint64_t tsc = 1; tsc <= 30; ++tsc) {
        produce(*rings_, 0, tsc);
        Trip trip(*rings_, 0);
        trip.claim();
        now_ += 10ms;
        merger.poll([&](const Event& e) { high += e.tsc == 1'000'000'000; });
        if (tsc < 10) {
            EXPECT_EQ(high, 0u);
        }
        trip.release();
    }
    EXPECT_EQ(high, 1u);
}

TEST_F(MergerTest, TakesOnlyWhatIsThereAtItsStart) {
    Merger merger = make(1);
    produce(*rings_, 0, 1);
    uint64_t tsc = 1;
    size_t seen = 0;
    // Each event makes another one; without a snapshot this would not end.
    seen = merger.poll([&](const Event&) { produce(*rings_, 0, ++tsc); });
    EXPECT_EQ(seen, 1u);
}

} // namespace
} // namespace shadowmon
