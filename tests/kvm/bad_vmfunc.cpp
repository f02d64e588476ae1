// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that a VMFUNC that names no view is the guest's own fault: index 2, 511, 512, a huge one
/// and leaf 1 raise #UD at the instruction, in ring 0 and in ring 3, the owner gets
/// EVENT_BAD_VMFUNC with the registers, the vCPU stays in the main view and the guest goes on.
/// The same for leaves from 64 on, for which the CPU itself raises #UD. Without views, and after
/// DISABLE, VMFUNC is #UD and nobody is told.
#include "tests/kvm/lib/test.h"

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned ud_vector = 6;
}

void test_main() {
    require_hardware();
    Vm vm({.vcpus = 2});
    Vcpu& vcpu = vm.vcpu(1);
    vcpu.call(guest_function(guest_vmfunc), 0, 1).must_raise(ud_vector);

    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    vcpu.call(guest_function(guest_vmfunc), 0, 1).must_raise(ud_vector);
    SM_CHECK(!views.next_event(0));
    compartment.enable();

    static constexpr struct {
        uint32_t leaf, index;
    } bad_cases[] = {{0, 2}, {0, 511}, {0, 512}, {0, 0xffffffff}, {0, 0x80000001},
                     {1, 0}, {1, 1},   {63, 0},  {64, 0},         {0xffffffff, 1}};
    uint64_t count = 0;
    for (bool user : {false, true}) {
        for (const auto& bad : bad_cases) {
            Outcome outcome = vcpu.call(guest_function(user ? guest_user_vmfunc : guest_vmfunc),
                                        bad.leaf, bad.index);
            outcome.must_raise(ud_vector);
            SM_CHECK_EQ(outcome.cs & 3, user ? 3 : 0, "the exception comes from the right ring");
            kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_BAD_VMFUNC);
            SM_CHECK_EQ(event.arg, bad.leaf | uint64_t{bad.index} << 32,
                        "EVENT_BAD_VMFUNC: EAX and ECX");
            SM_CHECK_EQ(event.vcpu_id, 1, "EVENT_BAD_VMFUNC: vcpu_id");
            SM_CHECK_EQ(event.rip, outcome.rip, "EVENT_BAD_VMFUNC: rip is that of the #UD");
            SM_CHECK_EQ(event.view, KVM_VIEWS_MAIN, "EVENT_BAD_VMFUNC: view");
            SM_CHECK_EQ(event.cr3, TG_PML4_GPA, "EVENT_BAD_VMFUNC: cr3");
            SM_CHECK_EQ(views.stats().bad_vmfunc, ++count, "bad VMFUNCs are counted");
            SM_CHECK_EQ(views.vcpu(1).view, KVM_VIEWS_MAIN, "the vCPU stays in the main view");
            SM_CHECK_EQ(vcpu.call(guest_function(guest_return_value)).must_return(), return_value,
                        "the guest goes on");
            vcpu.call(gate_function(gate_round_trips), 3).must_return();
        }
    }

    // VMFUNC to the main view in the main view is no switch and no fault.
    SM_CHECK_EQ(vcpu.call(guest_function(guest_vmfunc), 0, 0).must_return(), 1,
                "VMFUNC to the main view in the main view is allowed");
    // A user process can go to the shadow view, but gets nothing from it.
    Outcome outcome = vcpu.call(guest_function(guest_user_vmfunc), 0, 1);
    outcome.must_raise(ud_vector);
    SM_CHECK_EQ(outcome.rip, guest_function(guest_user_after_vmfunc).value,
                "the instruction after VMFUNC runs in the main view");
    views.must_get_event(KVM_VIEWS_EVENT_ESCAPE);
    SM_CHECK(!views.next_event(0));

    // Events that nobody reads are counted, and the guest goes on all the same.
    for (unsigned i = 0; i < 20000 && !views.stats().events_lost; i++)
        vcpu.call(guest_function(guest_vmfunc), 0, 2).must_raise(ud_vector);
    kvm_views_stats stats = views.stats();
    SM_CHECK(stats.events_lost > 0);
    uint64_t queued = 0;
    while (views.next_event(0))
        queued++;
    SM_CHECK_EQ(queued + stats.events_lost, stats.bad_vmfunc - count,
                "every event was queued or counted as lost");

    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    vcpu.call(guest_function(guest_vmfunc), 0, 1).must_raise(ud_vector);
    vcpu.call(guest_function(guest_vmfunc), 0, 2).must_raise(ud_vector);
    SM_CHECK(!views.next_event(0));
}

} // namespace shadowmon::kvmtest
