// SPDX-License-Identifier: GPL-2.0-or-later
// The merger against producers that really run at the same time: threads that share slots
// as vCPUs do, in both modes of a full ring.
#include "src/events/merger.h"

#include "tests/unit/events/test_rings.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace shadowmon {
namespace {

using test::TestRings;
using test::Trip;

constexpr unsigned vcpu_count = 4;
// Many, so that looking at them takes long enough for others to come in between.
constexpr unsigned slot_count = 64;
constexpr uint64_t events_each = 200'000;

struct Shared {
    TestRings rings{slot_count, 0x1000};
    std::atomic<uint64_t> tsc{1};
    std::atomic<uint64_t> dropped{0};
    std::atomic<unsigned> running{vcpu_count};
};

void run_vcpu(Shared& shared, unsigned id) {
    uint64_t random = id + 1;
    for (uint64_t n = 0; n < events_each; ++n) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        for (auto hint = static_cast<unsigned>(random >> 40);; ++hint) {
            Trip trip(shared.rings, hint % slot_count);
            if (!trip.claim())
                continue;
            trip.stamp(shared.tsc.fetch_add(1));
            // The value says whose event it is, and its number there.
            if (trip.write(SM_EVENT_SYSCALL_ENTER, uint64_t{id} << 32 | n))
                trip.commit();
            else
                ++shared.dropped;
            trip.release();
            break;
        }
    }
    --shared.running;
}

struct Seen {
    uint64_t events = 0;
    uint64_t noticed = 0;
    uint64_t disorder = 0;
    uint64_t last_tsc = 0;
    std::vector<uint64_t> next =
        std::vector<uint64_t>(vcpu_count, 0); // number expected of each vCPU
    uint64_t skipped = 0;

    void event(const Event& event) {
        if (const Lost* lost = event.get_if<Lost>()) {
            noticed += lost->total();
            return;
        }
        ++events;
        disorder += event.tsc < last_tsc;
        last_tsc = event.tsc;
        const uint64_t value = event.process.task.value;
        uint64_t& expected = next.at(value >> 32);
        const uint64_t n = value & 0xffffffff;
        disorder += n < expected; // an event doubled or out of its vCPU's order
        skipped += n - expected;
        expected = n + 1;
    }
};

Seen run(Shared& shared, LostCounter& lost) {
    // Threads of a busy machine can be off the CPU for long; nothing here may depend on it.
    Merger merger(shared.rings.readers(), shared.rings.slot_pointers(), Decoder(), steady_clock(),
                  {.max_wait = std::chrono::hours(1)});
    std::vector<std::thread> vcpus;
    for (unsigned id = 0; id < vcpu_count; ++id)
        vcpus.emplace_back(run_vcpu, std::ref(shared), id);
    Seen seen;
    while (shared.running != 0) {
        if (merger.poll([&](const Event& e) { seen.event(e); }) == 0)
            std::this_thread::yield();
    }
    for (std::thread& vcpu : vcpus)
        vcpu.join();
    merger.poll([&](const Event& e) { seen.event(e); });
    EXPECT_FALSE(merger.holding()) << "all are idle, so one poll takes all";
    EXPECT_TRUE(merger.take_errors().empty());
    EXPECT_EQ(merger.late(), 0u);
    lost = merger.lost();
    return seen;
}

TEST(MergerThreads, BlockModeLosesNothingAndKeepsTheOrder) {
    Shared shared;
    shared.rings.block([] {
        std::this_thread::yield();
        return true;
    });
    LostCounter lost;
    const Seen seen = run(shared, lost);
    EXPECT_EQ(seen.events, vcpu_count * events_each);
    EXPECT_EQ(seen.skipped, 0u);
    EXPECT_EQ(seen.disorder, 0u);
    EXPECT_EQ(lost.total(), 0u);
}

TEST(MergerThreads, DropModeCountsWhatItLosesAndKeepsTheOrder) {
    Shared shared;
    LostCounter lost;
    const Seen seen = run(shared, lost);
    EXPECT_EQ(seen.events + shared.dropped, vcpu_count * events_each);
    EXPECT_EQ(seen.disorder, 0u);
    EXPECT_EQ(lost.total(), shared.dropped);
    EXPECT_EQ(seen.noticed + lost.unreported(), shared.dropped);
}

} // namespace
} // namespace shadowmon
