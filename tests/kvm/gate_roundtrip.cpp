// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that a gate costs no VM exit: thousands of VMFUNC round trips through a region page that
/// is executable in both views leave the vCPU's exit counter where it was; and that what the
/// shadow view writes to a page that only it has, the owner reads through mmap.
#include "tests/kvm/lib/test.h"

#include <algorithm>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned run_count = 100;
constexpr unsigned trip_count = 100; // Short, so that most runs meet no timer tick of the host.

/// Exits of one call, the exit that ends it included.
uint64_t exits_of(const Views& views, Vcpu& vcpu, Gva function, uint64_t argument) {
    uint64_t before = views.vcpu(0).exits;
    vcpu.call(function, argument).must_return();
    return views.vcpu(0).exits - before;
}
} // namespace

void test_main() {
    require_hardware();
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();

    // The first trips map what they need of guest RAM.
    vcpu.call(gate_function(gate_round_trips), 1).must_return();
    vcpu.call(gate_function(gate_no_trips), 1).must_return();
    kvm_views_stats before = views.stats();

    uint64_t least = ~0ull, total = 0, least_without = ~0ull, total_without = 0;
    for (unsigned run = 0; run < run_count; run++) {
        uint64_t exits = exits_of(views, vcpu, gate_function(gate_round_trips), trip_count);
        uint64_t without = exits_of(views, vcpu, gate_function(gate_no_trips), trip_count);
        least = std::min(least, exits);
        least_without = std::min(least_without, without);
        total += exits;
        total_without += without;
    }
    note("%u round trips: %llu exits; as many loops without VMFUNC: %llu", run_count * trip_count,
         (unsigned long long)total, (unsigned long long)total_without);
    SM_CHECK_EQ(least, 1, "a call with round trips has no exit but the one that ends it");
    SM_CHECK_EQ(least_without, 1, "a call without round trips has one exit");
    // What is more than one per call are interrupts of the host, which come with time.
    SM_CHECK(total < run_count * 2);

    kvm_views_stats after = views.stats();
    SM_CHECK_EQ(after.region_faults, 0, "region pages are mapped before their first use");
    SM_CHECK_EQ(after.violations, 0, "no access was forbidden");
    SM_CHECK_EQ(after.bad_vmfunc, 0, "no VMFUNC was bad");
    SM_CHECK(after.exits - before.exits >= total + total_without);

    // Shadow side writes, owner reads; owner writes, shadow side reads.
    for (uint64_t i = 1; i < 200; i++) {
        uint32_t offset = 1024 + 8 * i;
        vcpu.call(gate_function(gate_write), region_gva(TG_PAGE_DATA, offset), i * 0x123456789)
            .must_return();
        auto& cell = *reinterpret_cast<volatile uint64_t*>(compartment.page(TG_PAGE_DATA) + offset);
        SM_CHECK_EQ(cell, i * 0x123456789, "the owner sees what the shadow view wrote");
        cell = ~i;
        SM_CHECK_EQ(
            vcpu.call(gate_function(gate_read), region_gva(TG_PAGE_DATA, offset)).must_return(), ~i,
            "the shadow view sees what the owner wrote");
    }

    // Guest RAM is readable in the shadow view, at the same address.
    vm.at<uint64_t>(TG_DATA_GPA) = 0xfeedface12345678;
    SM_CHECK_EQ(vcpu.call(gate_function(gate_read), Gpa{TG_DATA_GPA}).must_return(),
                0xfeedface12345678, "the shadow view reads guest RAM");
    SM_CHECK_EQ(views.vcpu(0).view, KVM_VIEWS_MAIN, "the vCPU is back in the main view");

    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    SM_CHECK_EQ(vcpu.call(guest_function(guest_return_value)).must_return(), return_value,
                "the guest goes on");
    vcpu.call(guest_function(guest_vmfunc), 0, 1).must_raise(6);
}

} // namespace shadowmon::kvmtest
