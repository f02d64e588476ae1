// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that a guest may be interrupted between any two instructions of the round trip from a
/// hook to the instruction behind it, by INT and by CALL: with the real payload, the vCPU is
/// stopped before each of them, and there it gets an interrupt that it cannot take, is given an
/// NMI, loses all that the EPT maps, has its hook taken out, or its monitor detached. The guest
/// goes on with all registers and flags as they were, the event is recorded once, what is delivered
/// is delivered once and in the main view. A guest that single-steps across a hook meets #DB in the
/// main view only.
///
/// That no instruction is left out is checked: as many different stops must be found as the TSC
/// counts instructions of a passage that nothing interrupts.
#include "tests/kvm/lib/scene.h"

#include <map>
#include <set>
#include <utility>

namespace shadowmon::kvmtest {

namespace {
constexpr Gpa scratch_gpa{0x1'0000'0000};
constexpr uint32_t scratch_slot = 1;
constexpr uint8_t other_vector = 0x41;

/// An interrupt that the guest cannot take where it is.
void send_interrupt(Scene& scene) {
    scene.guest.vm().send_message(0, Vm::Delivery::fixed, other_vector);
}

/// It comes last, where the guest lets it.
void check_interrupt(Scene& scene, const std::vector<uint64_t>& places, size_t number = 1) {
    SM_CHECK_EQ(places.size(), number, "every interrupt is delivered once");
    SM_CHECK(!in_compartment(Gva{places.back()}));
    SM_CHECK_EQ(scene.guest.views().vcpu(0).view, KVM_VIEWS_MAIN, "the vCPU is in the main view");
}

/// Given by the VMM, with an interrupt of the irqchip.
void test_nmi(Scene& scene, const Way& way, const Trace& trace) {
    std::set<uint64_t> later;
    at_each_stop(
        scene, way, trace,
        [&](const Stop&) {
            send_interrupt(scene);
            scene.vcpu().nmi();
        },
        [&](const Stop& stop) {
            scene.must_have_recorded(way, 1);
            const std::vector<uint64_t> places = scene.interrupted();
            check_interrupt(scene, places, 2);
            if (stop.view == KVM_VIEWS_MAIN)
                SM_CHECK_EQ(places[0], stop.rip, "the NMI comes at once");
            else
                later.insert(places[0]);
        });
    SM_CHECK_EQ(later.size(), 1, "one instruction is the first behind the shadow view");
    SM_CHECK_EQ(trace.views.at(*later.begin()), KVM_VIEWS_MAIN, "an NMI is taken in the main view");
}

/// Whatever the EPT maps has to be mapped anew.
void test_unmapped(Scene& scene, const Way& way, const Trace& trace) {
    std::vector<uint8_t> memory(2 * page_size);
    uint8_t* page =
        memory.data() + page_size - reinterpret_cast<uintptr_t>(memory.data()) % page_size;
    Vm& vm = scene.guest.vm();
    at_each_stop(
        scene, way, trace,
        [&](const Stop&) {
            SM_CHECK_EQ(vm.set_slot(scratch_slot, scratch_gpa, page, page_size), 0, "a slot");
            SM_CHECK_EQ(vm.set_slot(scratch_slot, scratch_gpa, page, 0), 0, "no slot");
            send_interrupt(scene);
        },
        [&](const Stop&) {
            scene.must_have_recorded(way, 1);
            check_interrupt(scene, scene.interrupted());
            scene.warm_up(way);
        });
}

/// The hook's bytes go at once; who is past them still makes the event.
void test_removed(Scene& scene, const Way& way, const Trace& trace) {
    const uint64_t site = scene.guest.function(way.site.site).value;
    at_each_stop(
        scene, way, trace,
        [&](const Stop& stop) {
            send_interrupt(scene);
            const uint32_t waits = scene.guest.take_out(way.site);
            SM_CHECK(!scene.guest.is_hooked(way.site));
            // In kernel mode it may also come back to a CALL.
            const bool is_inside = stop.view != KVM_VIEWS_MAIN || in_compartment(Gva{stop.rip});
            SM_CHECK_EQ(waits, is_inside || way.site.is_call, "PATCH counts who is inside");
        },
        [&](const Stop& stop) {
            scene.must_have_recorded(way, stop.rip != site);
            check_interrupt(scene, scene.interrupted());
            if (!way.site.is_call)
                SM_CHECK_EQ(scene.guest.views().quiesce(), 0, "nobody is inside any more");
            scene.guest.patch_in(way.site);
        });
}

/// The monitor goes while the vCPU stands there.
void test_detached(Scene& scene, const Way& way, const Trace& trace) {
    at_each_stop(
        scene, way, trace,
        [&](const Stop&) {
            send_interrupt(scene);
            scene.guest.detach();
        },
        [&](const Stop&) {
            SM_CHECK_EQ(scene.interrupted().size(), 1, "the interrupt is delivered once");
            scene.detach();
            scene.attach();
        });
}

/// With interrupts on the timer's comes at the instruction it is due at, or, from the gate's first
/// steps on, behind the round trip.
void test_delivered(Scene& scene, const Way& way, const Trace& trace) {
    const uint64_t flags = guest_flags | flag_if;
    const uint64_t length =
        scene.least_ticks(way, way.function, flags) - scene.least_ticks(way, way.plain, flags) + 1;
    scene.warm_up(way);
    auto place_of = [&](uint64_t delta) {
        scene.pass(way, way.function, delta, flags);
        scene.must_have_recorded(way, 1);
        const std::vector<uint64_t> places = scene.interrupted();
        SM_CHECK_EQ(places.size(), 1, "the interrupt is delivered once");
        return places[0];
    };
    const uint64_t site = scene.guest.function(way.site.site).value;
    const uint64_t end = scene.guest.function(way.site.end).value;
    auto stable_place_of = [&](uint64_t delta) {
        // An interrupt of the host may have come first: until it is the same twice.
        uint64_t before = 0, place = place_of(delta);
        while (before != place)
            before = std::exchange(place, place_of(delta));
        return place;
    };
    // At first the time has gone by when the timer is set.
    constexpr uint64_t step_size = 16;
    uint64_t delta = step_size;
    const uint64_t first = stable_place_of(delta);
    while (stable_place_of(delta) == first)
        delta += step_size;
    std::map<uint64_t, unsigned> seen;
    for (uint64_t place = 0; place != end + 4; delta++) {
        place = stable_place_of(delta);
        seen[place]++;
        SM_CHECK(delta < 10000);
    }
    // The CALL comes with the guest's flag, which two instructions later is off.
    unsigned open = 0;
    for (const auto& [place, times] : seen) {
        if (!in_compartment(Gva{place}))
            continue;
        if (trace.is_shadow(place) || !way.site.is_call)
            SM_FAIL("interrupted at %s", scene.guest.name_of(place).c_str());
        SM_CHECK_EQ(times, 1, "the interrupt comes where it is due");
        open++;
    }
    SM_CHECK_EQ(open, way.site.is_call ? 2 : 0, "interrupts are on until the gate has them off");
    SM_CHECK_EQ(seen[site], 1, "one instant is that at the hook");
    SM_CHECK_EQ(seen[end], length - open, "what is due in the gate comes behind the round trip");
    note("%s: %u instants in the gate are delivered behind it, %u in its first instructions",
         way.name, seen[end] - 1, open);
}

/// The guest single-steps its kernel across the hook.
void test_single_step(Scene& scene, const Way& way, const Trace& trace, uint64_t interrupt_flag) {
    Views& views = scene.guest.views();
    while (views.next_event(0))
        ;
    scene.pass(way, way.function, 0, guest_flags | flag_tf | interrupt_flag);
    scene.must_have_recorded(way, 1);
    const uint64_t steps = scene.control().steps;
    SM_CHECK(steps > 0 && steps <= HG_STEP_LOG_SIZE);
    const auto* log = &scene.guest.vm().at<uint64_t>(Gpa{TG_CONTEXT_GPA + HG_STEP_LOG});
    unsigned at_site = 0, at_end = 0, inside = 0;
    for (uint64_t i = 0; i < steps; i++) {
        if (trace.is_shadow(log[i]))
            SM_FAIL("#DB in the shadow view, at %s", scene.guest.name_of(log[i]).c_str());
        at_site += log[i] == scene.guest.function(way.site.site).value;
        at_end += log[i] == scene.guest.function(way.site.end).value;
        inside += in_compartment(Gva{log[i]});
    }
    SM_CHECK_EQ(at_site, 1, "#DB comes before the hook");
    SM_CHECK_EQ(at_end, 1, "#DB comes behind the hook");
    unsigned reported = 0;
    while (auto event = views.next_event(0)) {
        SM_CHECK_EQ(event->type, KVM_VIEWS_EVENT_DEBUG, "nothing else is reported");
        SM_CHECK_EQ(event->view, KVM_VIEWS_SHADOW, "what the guest gets is not reported");
        reported++;
    }
    note("%s, single-stepped: %u #DBs inside, %u kept from the guest and reported", way.name,
         inside, reported);
}
} // namespace

void test_main() {
    require_hardware();
    require_one_cpu();
    set_time_limit(1500); // Of the emulated machine; under lockdep it takes several times as long.
    for (const Way& way : all_ways) {
        Scene scene;
        scene.warm_up(way);
        scene.find_trace(way, 0);
        const Trace trace = scene.find_trace(way, no_sample);
        note("%s: interrupts", way.name);
        test_delivered(scene, way, trace);
        note("%s: NMIs", way.name);
        test_nmi(scene, way, trace);
        note("%s: hook taken out", way.name);
        test_removed(scene, way, trace);
        test_single_step(scene, way, trace, 0);
        test_single_step(scene, way, trace, flag_if);

        // The same places: where code lies does not depend on the rings.
        Scene small(1, 2, Scene::small_ring);
        small.warm_up(way);
        note("%s: unmapped", way.name);
        test_unmapped(small, way, trace);
        note("%s: detached", way.name);
        test_detached(small, way, trace);
    }
}

} // namespace shadowmon::kvmtest
