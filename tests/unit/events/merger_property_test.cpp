// SPDX-License-Identifier: GPL-2.0-or-later
// For any interleaving of vCPUs that follow the protocol with polls of the consumer: every
// event that was recorded comes out, once, and in the order of time.
#include "src/events/merger.h"

#include "tests/unit/events/test_rings.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

namespace shadowmon {
namespace {

using test::TestRings;
using test::Trip;

constexpr std::array types = {SM_EVENT_SYSCALL_ENTER, SM_EVENT_SYSCALL_EXIT, SM_EVENT_SWITCH,
                              SM_EVENT_UNKNOWN_HOOK, SM_EVENT_HOOK};

/// One vCPU, which goes round through claim, stamp, write, commit, release.
class Vcpu {
  public:
    Vcpu(const TestRings& rings, unsigned slots) : rings_(rings), slots_(slots) {}

    /// Does the next step; `tsc` is the time of it, `choice` any number.
    void step(uint64_t tsc, unsigned choice) {
        switch (phase_) {
        case 0: // as the gate does it: from a slot of the guest's choice on, the first free one
            for (unsigned i = 0; i < slots_; ++i) {
                trip_.emplace(rings_, (choice + i) % slots_);
                if (trip_->claim()) {
                    phase_ = 1;
                    return;
                }
            }
            return;
        case 1:
            trip_->stamp(tsc);
            tsc_ = tsc;
            phase_ = 2;
            return;
        case 2:
            if (trip_->write(types[choice % types.size()], tsc_))
                phase_ = 3;
            else
                phase_ = 4, ++lost;
            return;
        case 3:
            trip_->commit();
            recorded.push_back(tsc_);
            phase_ = 4;
            return;
        default:
            trip_->release();
            phase_ = 0;
        }
    }

    bool idle() const { return phase_ == 0; }

    std::vector<uint64_t> recorded;
    uint64_t lost = 0;

  private:
    const TestRings& rings_;
    unsigned slots_;
    std::optional<Trip> trip_;
    int phase_ = 0;
    uint64_t tsc_ = 0;
};

struct Step {
    unsigned who;    // a vCPU, or the consumer
    unsigned choice; // of a slot and a type
};

struct Outcome {
    std::vector<uint64_t> recorded; // sorted
    std::vector<uint64_t> tscs;     // in the order they came out
    std::vector<bool> late;
    uint64_t dropped = 0; // as the vCPUs count
    uint64_t noticed = 0; // as Lost events say
    LostCounter lost;
};

/// Plays a schedule. Every step takes a tick of the TSC and `tick` of the host's clock.
Outcome play(unsigned vcpus, unsigned slots, const std::vector<Step>& schedule,
             std::chrono::nanoseconds tick) {
    const TestRings rings(slots, 0x1000);
    std::chrono::nanoseconds now{};
    Merger merger(rings.readers(), rings.slot_pointers(), Decoder(), [&] { return now; });
    std::vector<Vcpu> all(vcpus, Vcpu(rings, slots));
    Outcome outcome;
    const auto visit = [&](const Event& event) {
        if (const Lost* notice = event.get_if<Lost>()) {
            outcome.noticed += notice->total();
            return;
        }
        outcome.tscs.push_back(event.tsc);
        outcome.late.push_back(event.late);
    };

    uint64_t tsc = 0;
    for (const Step& step : schedule) {
        now += tick;
        if (step.who < vcpus)
            all[step.who].step(++tsc, step.choice);
        else
            merger.poll(visit);
    }
    for (Vcpu& vcpu : all) {
        while (!vcpu.idle())
            vcpu.step(++tsc, 0);
    }
    merger.poll(visit);
    merger.drain(visit);

    for (const Vcpu& vcpu : all) {
        outcome.recorded.insert(outcome.recorded.end(), vcpu.recorded.begin(), vcpu.recorded.end());
        outcome.dropped += vcpu.lost;
    }
    std::sort(outcome.recorded.begin(), outcome.recorded.end());
    outcome.lost = merger.lost();
    RC_ASSERT(merger.take_errors().empty());
    RC_ASSERT(!merger.holding());
    return outcome;
}

std::vector<Step> any_schedule(unsigned vcpus) {
    // The consumer polls about as often as a vCPU makes an event, or much more seldom.
    const auto polls = *rc::gen::element(1u, 0u);
    const auto length = *rc::gen::inRange<size_t>(1, 3000);
    auto numbers =
        *rc::gen::container<std::vector<uint32_t>>(length, rc::gen::arbitrary<uint32_t>());
    std::vector<Step> schedule;
    for (size_t i = 0; i < numbers.size(); ++i) {
        const unsigned who = numbers[i] % (vcpus + polls);
        schedule.push_back({who, numbers[i] >> 8});
        if (polls == 0 && i % 500 == 499)
            schedule.push_back({vcpus, 0});
    }
    return schedule;
}

RC_GTEST_PROP(MergerProperty, GivesEveryEventOnceInTheOrderOfTime, ()) {
    const auto vcpus = *rc::gen::inRange(1u, 6u);
    const auto slots = *rc::gen::element(1u, 2u, 4u, 8u);
    const Outcome outcome = play(vcpus, slots, any_schedule(vcpus), std::chrono::nanoseconds(1));
    RC_ASSERT(outcome.tscs == outcome.recorded);
    RC_ASSERT(
        std::none_of(outcome.late.begin(), outcome.late.end(), [](bool late) { return late; }));
    RC_ASSERT(outcome.lost.total() == outcome.dropped);
    RC_ASSERT(outcome.noticed + outcome.lost.unreported() == outcome.dropped);
}

// Time is so fast that claims last longer than the merger waits.
RC_GTEST_PROP(MergerProperty, MarksWhatComesOutOfOrderAndLosesNothingOfIt, ()) {
    const auto vcpus = *rc::gen::inRange(2u, 6u);
    const Outcome outcome =
        play(vcpus, 8, any_schedule(vcpus), std::chrono::milliseconds(*rc::gen::inRange(5, 60)));
    uint64_t highest = 0;
    for (size_t i = 0; i < outcome.tscs.size(); ++i) {
        RC_ASSERT(outcome.late[i] == (outcome.tscs[i] < highest));
        highest = std::max(highest, outcome.tscs[i]);
    }
    std::vector<uint64_t> sorted = outcome.tscs;
    std::sort(sorted.begin(), sorted.end());
    RC_ASSERT(sorted == outcome.recorded);
    RC_ASSERT(outcome.lost.total() == outcome.dropped);
}

} // namespace
} // namespace shadowmon
