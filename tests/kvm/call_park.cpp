// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves VMCALL in the shadow view: the vCPU parks there and the owner gets EVENT_CALL with RBX;
/// it goes on with RAX 0 after RESUME; while parked its thread still answers signals and the other
/// vCPU runs; DISABLE and the end of the owner let it go with RAX 1. VMCALL in the main view stays
/// KVM's ordinary hypercall.
#include "tests/kvm/lib/test.h"

#include <cerrno>

namespace shadowmon::kvmtest {

namespace {
constexpr Gpa data_gpa{TG_DATA_GPA};
constexpr uint64_t is_ready = 1, got_call = 2;

/// args: pid of the VMM, its VM fd. Waits for one call and never resumes it.
void ignore_call(const Channel& channel, std::span<const uint64_t> args) {
    Views views = Views::attach_to_process(args[0], args[1]);
    Compartment compartment(views);
    compartment.enable();
    channel.send({is_ready});
    views.must_get_event(KVM_VIEWS_EVENT_CALL);
    channel.send({got_call});
    Message end;
    channel.try_receive(end);
}
Role role("ignore_call", ignore_call);

void test_resume() {
    Vm vm({.vcpus = 2});
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    Vcpu& vcpu = vm.vcpu(1);
    auto& other = vm.at<LoopControl>(data_gpa);
    volatile uint64_t& other_count = other.count;
    vm.vcpu(0).start(guest_function(guest_count_loop), data_gpa);

    SM_CHECK_EQ(views.resume(1), -ENOENT, "a vCPU that is not parked cannot be resumed");
    for (uint64_t i = 0; i < 20; i++) {
        vcpu.start(gate_function(gate_vmcall), 0xca11 + i);
        kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_CALL);
        SM_CHECK_EQ(event.vcpu_id, 1, "EVENT_CALL: vcpu_id");
        SM_CHECK_EQ(event.view, KVM_VIEWS_SHADOW, "EVENT_CALL: view");
        SM_CHECK_EQ(event.arg, 0xca11 + i, "EVENT_CALL: RBX");
        SM_CHECK_EQ(event.rip, gate_function(gate_vmcall_site).value, "EVENT_CALL: rip");

        // Signals come through, and do not let it go or report it twice.
        for (unsigned signals = 0; signals < 5; signals++) {
            uint64_t before = vcpu.interruptions();
            vcpu.interrupt();
            wait_until("the parked vCPU's thread answers a signal",
                       [&] { return vcpu.interruptions() > before; });
        }
        SM_CHECK(!vcpu.finished());
        SM_CHECK(!views.next_event(0));
        SM_CHECK_EQ(views.vcpu(1).view, KVM_VIEWS_SHADOW, "it is parked in the shadow view");
        uint64_t count = other_count;
        wait_until("the other vCPU runs", [&] { return other_count > count + 1000; });
        SM_CHECK_EQ(views.resume(0), -ENOENT, "the other vCPU is not parked");

        SM_CHECK_EQ(views.resume(1), 0, "RESUME works");
        SM_CHECK_EQ(vcpu.wait().must_return(), 0, "after RESUME RAX is 0");
        SM_CHECK_EQ(views.resume(1), -ENOENT, "it is no longer parked");
    }
    SM_CHECK_EQ(views.stats().calls, 20, "calls are counted");

    // Out of KVM_RUN altogether while parked, and back.
    vcpu.start(gate_function(gate_vmcall), 1);
    views.must_get_event(KVM_VIEWS_EVENT_CALL);
    vcpu.stop();
    SM_CHECK(vcpu.wait().end == Outcome::End::stopped);
    SM_CHECK_EQ(vcpu.regs().rip, gate_function(gate_vmcall_site).value,
                "RIP is not advanced while parked");
    SM_CHECK_EQ(views.resume(1), 0, "a parked vCPU outside KVM_RUN can be resumed");
    SM_CHECK_EQ(vcpu.run().must_return(), 0, "after RESUME RAX is 0");

    // In the main view VMCALL is KVM's: an unknown hypercall is -KVM_ENOSYS.
    SM_CHECK_EQ(static_cast<int64_t>(vcpu.call(guest_function(guest_vmcall)).must_return()), -1000,
                "VMCALL in the main view is a hypercall");
    SM_CHECK(!views.next_event(0));

    // Draining lets it go.
    vcpu.start(gate_function(gate_vmcall), 2);
    views.must_get_event(KVM_VIEWS_EVENT_CALL);
    SM_CHECK_EQ(views.disable(), 0, "DISABLE with a parked vCPU works");
    SM_CHECK_EQ(vcpu.wait().must_return(), 1, "draining gives RAX 1");
    other.stop = 1;
    vm.vcpu(0).wait().must_return();
}

void test_owner_gone(bool killed) {
    Vm vm;
    vm.map_region_in_guest(Compartment::default_gpa(), TG_REGION_PAGES);
    Child owner("ignore_call", {static_cast<uint64_t>(getpid()), static_cast<uint64_t>(vm.fd())});
    owner.channel().receive(is_ready);
    vm.vcpu(0).start(gate_function(gate_vmcall), 3);
    owner.channel().receive(got_call);
    SM_CHECK(!vm.vcpu(0).finished());
    if (killed) {
        owner.kill();
        owner.reap_killed();
    } else {
        owner.channel().send({0});
        owner.must_exit();
    }
    SM_CHECK_EQ(vm.vcpu(0).wait().must_return(), 1, "without its owner the vCPU gets RAX 1");
    SM_CHECK_EQ(vm.vcpu(0).call(guest_function(guest_return_value)).must_return(), return_value,
                "the guest goes on");
}
} // namespace

void test_main() {
    require_hardware();
    test_resume();
    test_owner_gone(false);
    test_owner_gone(true);
}

} // namespace shadowmon::kvmtest
