// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves the way that every hook takes: INT 20 in the main view enters a gate whose page is only
/// executable there, the gate switches views, writes in the shadow view, switches back and IRETs;
/// no register of the guest changes but what the displaced instruction does, and it costs no exit.
/// The same with the page tables of the compartment in read-only pages of the region itself.
#include "tests/kvm/lib/test.h"

#include <cstring>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned gate_vector = 20;
constexpr unsigned call_count = 500;

void check_gate(Vm& vm, const Views& views, const Compartment& compartment) {
    uint64_t events = compartment.data().events;
    uint64_t least = ~0ull;
    for (unsigned i = 1; i <= call_count; i++) {
        for (unsigned vcpu = 0; vcpu < vm.nr_vcpus(); vcpu++) {
            uint64_t before = views.vcpu(vcpu).exits;
            // High half: register differences; low half: EBX after the displaced inc.
            SM_CHECK_EQ(vm.vcpu(vcpu).call(guest_function(guest_int20)).must_return(), 0x56,
                        "INT 20 changes nothing but EBX, by 1");
            least = std::min<uint64_t>(least, views.vcpu(vcpu).exits - before);
        }
        SM_CHECK_EQ(compartment.data().events, events + i * vm.nr_vcpus(),
                    "each INT 20 was counted in the shadow view");
    }
    SM_CHECK_EQ(least, 1, "INT 20 and back has no exit but the one that ends the call");
}
} // namespace

void test_main() {
    require_hardware();
    Vm vm({.vcpus = 2});
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    vm.set_gate(gate_vector, gate_function(gate_int20));
    check_gate(vm, views, compartment);

    // Now through page tables in the region: one PUD entry is all that the guest's own have.
    vm.unmap_region_in_guest();
    auto& entry = vm.at<uint64_t>(TG_PDPT_HIGH_GPA + TG_REGION_PUD_INDEX * 8);
    entry = compartment.build_tables();
    check_gate(vm, views, compartment);
    // They can be read but not written by the guest.
    vm.at<uint64_t>(TG_PD_REGION_GPA) = TG_PT_REGION_GPA | pte_kernel_page;
    vm.at<uint64_t>(TG_PDPT_HIGH_GPA + 8 * (TG_REGION_PUD_INDEX - 1)) =
        TG_PD_REGION_GPA | pte_kernel_page;
    vm.at<uint64_t>(TG_PT_REGION_GPA) = compartment.gpa(TG_PAGE_TABLES).value | pte_kernel_page;
    Gva alias{TG_REGION_GVA - 0x40000000};
    uint64_t pmd = *reinterpret_cast<uint64_t*>(compartment.page(TG_PAGE_TABLES));
    SM_CHECK_EQ(vm.vcpu(0).call(guest_function(guest_read8), alias).must_return(), pmd,
                "the guest reads the compartment's page tables");
    vm.vcpu(0).call(guest_function(guest_write8), alias, 0);
    vm.vcpu(0).call(guest_function(guest_xchg8), alias, 0);
    SM_CHECK_EQ(*reinterpret_cast<uint64_t*>(compartment.page(TG_PAGE_TABLES)), pmd,
                "the guest cannot write the compartment's page tables");
    check_gate(vm, views, compartment);

    SM_CHECK_EQ(views.stats().bad_vmfunc, 0, "no VMFUNC was bad");
    SM_CHECK_EQ(views.vcpu(0).view, KVM_VIEWS_MAIN, "the vCPU is in the main view");
}

} // namespace shadowmon::kvmtest
