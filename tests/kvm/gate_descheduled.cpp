// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves what becomes of the others while the host keeps a vCPU from running in the shadow view,
/// at each of the gate's instructions there, by INT and by CALL. Another vCPU runs into its hook
/// thousands of times meanwhile: every event is recorded once. The merger holds them back as long
/// as the one that is due may still be earlier, and no longer than it promises; then they come out
/// in order, and what the vCPU records in the end, once it runs again, comes out once, marked late
/// if later ones were given out. A hook that is taken out meanwhile goes at once, QUIESCE gives up
/// with EAGAIN, DISABLE waits for the vCPU, and the guest is unharmed. With no slot but the one
/// that the vCPU holds, the other one gets no further than its hook, from where it can be stopped,
/// and loses no event either.
#include "payload/symbols.h"
#include "src/events/merger.h"
#include "tests/kvm/lib/scene.h"

#include <atomic>
#include <cerrno>
#include <thread>

namespace shadowmon::kvmtest {

namespace {
constexpr uint64_t pass_count = 1000; // of the other vCPU, each time
constexpr std::chrono::seconds long_time(2);

/// The events of both vCPUs as a trace would give them, with a clock that the test sets.
class Reader {
  public:
    explicit Reader(Scene& scene)
        : merger_(scene.guest.make_rings(), slots_of(scene), Decoder(), [this] { return now_; }) {
        scene.forget_records = [this] {
            wait(long_time);
            poll();
            first_ = late_ = 0;
        };
    }
    Reader(const Reader&) = delete;

    void wait(std::chrono::nanoseconds time) { now_ += time; }
    /// Takes what is due; returns how many there were of the other vCPU.
    uint64_t poll();
    /// Of the first vCPU since the last time, and how many of these came late.
    uint64_t take_first() { return std::exchange(first_, 0); }
    uint64_t take_late() { return std::exchange(late_, 0); }
    uint64_t last_tsc() const { return last_tsc_; }
    void must_have_lost_nothing() {
        SM_CHECK_EQ(merger_.lost().total(), 0, "no event is lost");
        SM_CHECK(merger_.take_errors().empty());
    }

  private:
    static std::vector<const sm_slot*> slots_of(Scene& scene) {
        std::vector<const sm_slot*> slots;
        for (uint32_t i = 0; i < scene.guest.slots(); i++)
            slots.push_back(&scene.guest.slot(i));
        return slots;
    }

    std::chrono::nanoseconds now_{};
    Merger merger_;
    uint64_t next_pass_ = 0; // of the other vCPU
    uint64_t first_ = 0, late_ = 0;
    uint64_t last_tsc_ = 0;
};

uint64_t Reader::poll() {
    uint64_t others = 0;
    merger_.poll([&](const Event& event) {
        const auto* hit = event.get_if<HookHit>();
        SM_CHECK(hit);
        SM_CHECK_EQ(event.late, event.tsc < last_tsc_, "an event is late if a later one was given");
        last_tsc_ = std::max(last_tsc_, event.tsc);
        if (event.hook == loop_hook.id) {
            SM_CHECK(!event.late);
            SM_CHECK_EQ(hit->args[4], next_pass_, "the events of a vCPU are all there, in order");
            next_pass_ = (next_pass_ + 1) % pass_count;
            others++;
        } else {
            first_++;
            late_ += event.late;
        }
    });
    return others;
}

void run_other(Scene& scene) {
    const Outcome outcome =
        scene.guest.vm().vcpu(1).call(scene.guest.function(hooked_loop), 0, pass_count);
    SM_CHECK_EQ(outcome.must_return(), pass_count, "the other vCPU runs");
}

uint32_t busy_slots(Scene& scene) {
    uint32_t busy = 0;
    for (uint32_t i = 0; i < scene.guest.slots(); i++)
        busy += __atomic_load_n(&scene.guest.slot(i).busy, __ATOMIC_ACQUIRE);
    return busy;
}

/// Where the next event of the first vCPU goes.
uint64_t head_of_first(Scene& scene, uint32_t slot) {
    return __atomic_load_n(&scene.guest.ring(slot).head, __ATOMIC_ACQUIRE);
}

/// Runs passages until the first vCPU stands somewhere in the shadow view with a slot.
Stop stop_with_slot(Scene& scene, const Way& way) {
    for (unsigned i = 0; i < 1000; i++) {
        const Stop stop = scene.stop(way);
        if (stop.view == KVM_VIEWS_SHADOW && busy_slots(scene) == 1)
            return stop;
        scene.end_pass(way);
        scene.forget_records();
    }
    SM_FAIL("a vCPU is never met with a slot");
}

/// The first vCPU stands at each place in turn.
void test_others_run_on(Scene& scene, Reader& reader, const Way& way, const Trace& trace,
                        uint32_t first_slot) {
    uint64_t held = 0, late = 0;
    uint64_t at_once = 0;
    bool has_recorded = false;
    // As passages that are over have left it.
    uint64_t head = head_of_first(scene, first_slot);
    const auto forget = scene.forget_records;
    scene.forget_records = [&] {
        forget();
        head = head_of_first(scene, first_slot);
    };
    at_each_stop(
        scene, way, trace,
        [&](const Stop& stop) {
            const bool is_busy = busy_slots(scene) != 0;
            has_recorded = head_of_first(scene, first_slot) != head;
            run_other(scene);
            reader.wait(std::chrono::milliseconds(1));
            at_once = reader.poll();
            if (!is_busy)
                SM_CHECK_EQ(at_once, pass_count, "an idle slot holds nothing back");
            else
                SM_CHECK_EQ(at_once, 0, "nothing comes out while an earlier event is due");
            held += is_busy;

            reader.wait(long_time);
            run_other(scene);
            SM_CHECK_EQ(at_once + reader.poll(), 2 * pass_count, "no slot holds back for long");
            SM_CHECK_EQ(scene.guest.views().vcpu(0).view, stop.view, "it still stands there");
        },
        [&](const Stop&) {
            reader.wait(std::chrono::milliseconds(1));
            SM_CHECK_EQ(reader.poll(), 0, "the other vCPU has recorded nothing");
            SM_CHECK_EQ(reader.take_first(), 1, "the event comes out once");
            const uint64_t was_late = reader.take_late();
            SM_CHECK(!has_recorded || was_late == 0);
            late += was_late;
            SM_CHECK_EQ(busy_slots(scene), 0, "the slot is let go of");
            reader.must_have_lost_nothing();
            head = head_of_first(scene, first_slot);
        });
    scene.forget_records = forget;
    SM_CHECK(held > 0 && late > 0 && late < held);
    note("%s: stood at %zu places, with a slot at %llu; %llu events came late", way.name,
         trace.views.size(), (unsigned long long)held, (unsigned long long)late);
}

/// Somebody wants the compartment to be left.
void test_asked_to_leave(Scene& scene, Reader& reader, const Way& way) {
    MonitoredGuest& guest = scene.guest;
    Stop stop = stop_with_slot(scene, way);
    say_on_failure(fmt::format("{}, standing at {}", way.name, scene.name_of(stop)));
    SM_CHECK_EQ(guest.take_out(loop_hook), 1, "PATCH counts the vCPU that stands inside");
    SM_CHECK(!guest.is_hooked(loop_hook));
    const uint64_t start = monotonic_ms();
    SM_CHECK_EQ(guest.views().quiesce(), -EAGAIN, "QUIESCE gives up");
    SM_CHECK(monotonic_ms() - start < 2000);
    run_other(scene);
    reader.wait(long_time);
    SM_CHECK_EQ(reader.poll(), 0, "without its hook the other vCPU makes no event");
    scene.end_pass(way);
    SM_CHECK_EQ(guest.views().quiesce(), 0, "QUIESCE returns once the vCPU has left");
    SM_CHECK_EQ(reader.poll(), 0, "nor before");
    SM_CHECK_EQ(reader.take_first(), 1, "the event comes out once");
    reader.take_late();
    guest.patch_in(loop_hook);

    // The end of the views waits, and what the vCPU stands on stays.
    stop = stop_with_slot(scene, way);
    say_on_failure(fmt::format("{}, standing at {}", way.name, scene.name_of(stop)));
    std::atomic<bool> ended = false;
    std::thread owner([&] {
        SM_CHECK_EQ(guest.views().disable(), 0, "DISABLE works");
        ended = true;
    });
    wait_until("the hooks are gone", [&] { return !guest.is_hooked(loop_hook); });
    run_other(scene);
    SM_CHECK(!ended);
    scene.end_pass(way);
    scene.in_user_mode("DISABLE returns", [&] { return ended.load(); });
    owner.join();
    SM_CHECK(guest.is_clean());
    SM_CHECK_EQ(guest.views().stats().undo_conflicts, 0, "all bytes could go back");
    reader.wait(long_time);
    SM_CHECK_EQ(reader.poll(), 0, "without its hook the other vCPU makes no event");
    SM_CHECK_EQ(reader.take_first(), 1, "the event comes out once");
    reader.must_have_lost_nothing();
    say_on_failure({});
}

/// The only slot is taken.
void test_no_slot(Scene& scene, const Way& way) {
    Reader reader(scene);
    const Stop stop = stop_with_slot(scene, way);
    say_on_failure(fmt::format("{}, standing at {}", way.name, scene.name_of(stop)));
    Vcpu& other = scene.guest.vm().vcpu(1);
    const uint64_t before = scene.guest.no_slot();
    other.start(scene.guest.function(hooked_loop), 0, pass_count);
    wait_until("the other vCPU finds no slot", [&] { return scene.guest.no_slot() > before + 2; });
    SM_CHECK(!other.finished());
    other.stop();
    SM_CHECK(other.wait().end == Outcome::End::stopped);
    reader.wait(long_time);
    SM_CHECK_EQ(reader.poll(), 0, "without a slot there is no event");
    scene.end_pass(way);
    SM_CHECK_EQ(other.run().must_return(), pass_count, "the other vCPU gets on");
    SM_CHECK_EQ(reader.poll(), pass_count, "and has lost no event");
    SM_CHECK_EQ(reader.take_first(), 1, "the event comes out once");
    reader.must_have_lost_nothing();
    say_on_failure({});
}

/// Rings are read by one reader at a time: a new one begins with new rings.
void attach_again(Scene& scene) {
    scene.detach();
    scene.attach();
    run_other(scene);
    scene.guest.take_records();
}
} // namespace

void test_main() {
    require_hardware();
    require_one_cpu();
    set_time_limit(1500); // Of the emulated machine; under lockdep it takes several times as long.
    for (const Way& way : all_ways) {
        Scene scene(2);
        const Trace trace = scene.find_trace(way, no_sample);
        // The one that the first vCPU takes when it is free.
        uint32_t first_slot = 0;
        stop_with_slot(scene, way);
        while (!scene.guest.slot(first_slot).busy)
            first_slot++;
        scene.end_pass(way);
        run_other(scene);
        scene.guest.take_records();

        {
            Reader reader(scene);
            test_others_run_on(scene, reader, way, trace, first_slot);
        }
        for (unsigned i = 0; i < 2; i++) {
            attach_again(scene);
            Reader reader(scene);
            test_asked_to_leave(scene, reader, way);
        }
        Scene small(2, 1);
        test_no_slot(small, way);
    }
}

} // namespace shadowmon::kvmtest
