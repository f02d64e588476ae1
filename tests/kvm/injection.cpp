// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that nothing is injected into a vCPU that is in the shadow view: NMIs, interrupts given
/// by KVM_INTERRUPT and interrupts of an in-kernel irqchip that are requested while it is there
/// (with the interrupt flag set, even) arrive after it is back in the main view, before it runs
/// anything else, and none is lost.
#include "tests/kvm/lib/test.h"

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned round_count = 20;
constexpr unsigned irq_vector = 0x41;

struct Fixture {
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment{views};
    volatile GuestContext& context = vm.context(0);

    explicit Fixture(bool irqchip) : vm({.vcpus = 1, .irqchip = irqchip}) {
        vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
        compartment.enable();
    }

    /// Takes the vCPU into the shadow view, where it spins.
    void go_inside(const uint8_t* gate) {
        volatile RegionData& data = compartment.data();
        data.release = 0;
        uint64_t inside = data.inside;
        vcpu.start(gate_function(gate));
        wait_until("the vCPU is inside the gate", [&] { return data.inside > inside; });
    }
    void release() {
        compartment.data().release = 1;
        vcpu.wait().must_return();
    }
    /// The vCPU has been out of the guest and in again, several times.
    void let_it_exit() {
        for (unsigned i = 0; i < 5; i++) {
            uint64_t before = vcpu.interruptions();
            vcpu.interrupt();
            wait_until("the vCPU exits", [&] { return vcpu.interruptions() > before; });
        }
        SM_CHECK_EQ(views.vcpu(0).view, KVM_VIEWS_SHADOW, "the vCPU is in the shadow view");
    }
    /// What was held back arrives at the instruction behind the VMFUNC that led back.
    void check_arrived_at_once(uint64_t first) {
        for (uint64_t i = first; i < context.interrupts; i++)
            SM_CHECK_EQ(context.log[i & TG_CTX_LOG_MASK], gate_function(gate_spin_sti_back).value,
                        "what was held back arrives before anything else runs");
    }
    void check_interrupted_in_main_view(uint64_t first) {
        for (uint64_t i = first; i < context.interrupts; i++) {
            uint64_t rip = context.log[i & TG_CTX_LOG_MASK];
            if (rip >= gate_function(gate_spin_sti_inside).value &&
                rip < gate_function(gate_spin_sti_back).value)
                SM_FAIL("interrupted at 0x%llx, in the shadow view", (unsigned long long)rip);
        }
    }
};

/// From an in-kernel irqchip, while the vCPU is in KVM_RUN.
void test_nmi() {
    Fixture f(true);
    for (unsigned round = 1; round <= round_count; round++) {
        uint64_t first = f.context.interrupts;
        f.go_inside(gate_spin_sti);
        f.vm.send_message(0, Vm::Delivery::nmi);
        if (round % 4) // Else with no other exit between request and return.
            f.let_it_exit();
        SM_CHECK_EQ(f.context.nmis, round - 1, "no NMI arrives in the shadow view");
        f.release();
        SM_CHECK_EQ(f.context.nmis, round, "the NMI arrives when the vCPU is back");
        f.check_arrived_at_once(first);
    }
    SM_CHECK_EQ(f.views.stats().bad_vmfunc, 0, "holding back is not a bad VMFUNC");
    SM_CHECK(!f.views.next_event(0));
}

/// Without one: the VMM gives it to a vCPU outside KVM_RUN.
void test_from_vmm(bool nmi) {
    Fixture f(false);
    for (unsigned round = 1; round <= round_count; round++) {
        uint64_t first = f.context.interrupts;
        f.go_inside(gate_spin_sti);
        f.vcpu.stop();
        SM_CHECK(f.vcpu.wait().end == Outcome::End::stopped);
        SM_CHECK_EQ(f.views.vcpu(0).view, KVM_VIEWS_SHADOW, "it was stopped in the shadow view");
        if (nmi)
            f.vcpu.nmi();
        else
            f.vcpu.interrupt_vector(irq_vector);
        f.vcpu.resume_thread();
        f.let_it_exit();
        SM_CHECK_EQ(f.context.interrupts, round - 1, "nothing arrives in the shadow view");
        f.release();
        SM_CHECK_EQ(f.context.interrupts, round, "it arrives when the vCPU is back");
        f.check_arrived_at_once(first);
    }
    SM_CHECK(!f.views.next_event(0));
}

void test_irqchip() {
    Fixture f(true);
    f.vcpu.call(guest_function(guest_x2apic_on)).must_return();
    uint64_t expected = 0;
    for (unsigned round = 0; round < round_count; round++) {
        uint64_t first = f.context.interrupts;
        f.go_inside(gate_spin_sti);
        f.vm.send_message(0, Vm::Delivery::fixed, irq_vector + round % 3);
        if (round % 2) {
            f.let_it_exit();
            // A second one, of higher priority.
            f.vm.send_message(0, Vm::Delivery::fixed, irq_vector + 16 + round % 3);
            expected++;
        }
        if (round % 3 == 0)
            f.vm.send_message(0, Vm::Delivery::nmi);
        f.let_it_exit();
        SM_CHECK_EQ(f.context.interrupts, first, "nothing arrives in the shadow view");
        f.release();
        expected++;
        SM_CHECK_EQ(f.context.irqs, expected, "every interrupt arrives when the vCPU is back");
        f.check_arrived_at_once(first);
    }
    SM_CHECK_EQ(f.context.nmis, (round_count + 2) / 3, "every NMI arrives");

    // Requests in a stream against a vCPU that passes the gate all the time: what is delivered is
    // delivered in the main view, and the last one is not lost.
    auto& flag = f.vm.at<LoopControl>(TG_DATA_GPA);
    flag = {};
    uint64_t before = f.context.irqs;
    f.compartment.data().release = 1;
    flag.stop = 1;
    for (unsigned i = 1; i <= 300; i++) {
        uint64_t first = f.context.interrupts;
        f.vcpu.start(gate_function(gate_spin_sti));
        f.vm.send_message(0, Vm::Delivery::fixed, irq_vector);
        f.vcpu.wait().must_return();
        // One that came too late for the call arrives here.
        f.vcpu.call(guest_function(guest_sti_spin), TG_DATA_GPA).must_return();
        SM_CHECK_EQ(f.context.irqs, before + i, "every interrupt of the stream arrives");
        f.check_interrupted_in_main_view(first);
    }
}
} // namespace

void test_main() {
    require_hardware();
    set_time_limit(300); // The stream of requests is long.
    note("NMI from the irqchip");
    test_nmi();
    note("NMI from the VMM");
    test_from_vmm(true);
    note("interrupt from the VMM");
    test_from_vmm(false);
    note("interrupts from the irqchip");
    test_irqchip();
}

} // namespace shadowmon::kvmtest
