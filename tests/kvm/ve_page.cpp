// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves what becomes of a vCPU that fetches guest RAM in the shadow view. With ENABLE_VE it
/// takes #VE (vector 20) with a right information page, for pages that the shadow view has mapped
/// and for pages that it has never touched, on each vCPU with its own page, and not while the busy
/// word is set. Without ENABLE_VE the owner gets EVENT_ESCAPE and the vCPU goes on in the main
/// view, at the same instruction.
#include "tests/kvm/lib/test.h"

#include <cstring>

namespace shadowmon::kvmtest {

namespace {
constexpr uint32_t ept_violation_reason = 48;
constexpr unsigned ve_vector = 20;
constexpr Gpa data_gpa{TG_DATA_GPA};

/// The #VE handler of region.S takes the address of the information page in RSI, so a function of
/// RAM must not change it.
Gpa place_function(Vm& vm, Gpa gpa) {
    Gpa from = guest_text_gpa(guest_return_value);
    memcpy(vm.ram(gpa, 16), vm.ram(from, 16), 16);
    return gpa;
}

void escape_with_ve(Vm& vm, const Compartment& compartment, unsigned vcpu, Gpa target) {
    uint64_t count = compartment.data().ve_count;
    Outcome outcome =
        vm.vcpu(vcpu).call(gate_function(gate_escape_ve), target, region_gva(TG_PAGE_VE + vcpu));
    SM_CHECK_EQ(outcome.must_return(), count + 1, "the #VE handler ran once");
    volatile auto& ve = compartment.data().ve;
    SM_CHECK_EQ(ve.reason, ept_violation_reason, "#VE page: exit reason");
    SM_CHECK_EQ(ve.busy, 0xffffffffu, "#VE page: busy word");
    SM_CHECK_EQ(ve.qualification & 7, 4, "#VE page: qualification says fetch, and nothing else");
    SM_CHECK_EQ(ve.qualification >> 7 & 3, 3, "#VE page: GLA valid, not a page walk");
    SM_CHECK_EQ(ve.gla, target.value, "#VE page: guest-linear address");
    SM_CHECK_EQ(ve.gpa, target.value, "#VE page: guest-physical address");
    // Some CPUs report index 0 always.
    SM_CHECK(ve.view == KVM_VIEWS_SHADOW || ve.view == KVM_VIEWS_MAIN);
    // The pages of the other vCPUs were not touched.
    for (unsigned other = 0; other < vm.nr_vcpus(); other++) {
        if (other == vcpu)
            continue;
        auto* page = compartment.page(TG_PAGE_VE + other);
        uint32_t busy;
        memcpy(&busy, page + 4, 4);
        SM_CHECK_EQ(busy, 0, "the #VE page of another vCPU is not in use");
    }
}

void test_ve() {
    Vm vm({.vcpus = 2});
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    vm.set_gate(ve_vector, gate_function(gate_ve));
    compartment.enable(KVM_VIEWS_ENABLE_VE);

    for (unsigned vcpu : {0u, 1u}) {
        for (unsigned i = 0; i < 8; i++) {
            // A page that no view has mapped, one that only the main view has mapped, and one
            // that the shadow view has read before.
            Gpa page = data_gpa + (vcpu * 100 + i * 4) * page_size + i * 64;
            Gpa fresh = place_function(vm, page);
            Gpa main_only = place_function(vm, page + page_size);
            Gpa known = place_function(vm, page + 2 * page_size);
            escape_with_ve(vm, compartment, vcpu, fresh);
            SM_CHECK_EQ(
                vm.vcpu(vcpu).call(guest_function(guest_jump), Gva{main_only.value}).must_return(),
                return_value, "the main view runs the page");
            escape_with_ve(vm, compartment, vcpu, main_only);
            vm.vcpu(vcpu).call(gate_function(gate_read), Gva{known.value}).must_return();
            escape_with_ve(vm, compartment, vcpu, known);
            escape_with_ve(vm, compartment, vcpu, known);
        }
    }
    SM_CHECK(!views.next_event(0));

    // A mapped page costs no exit: #VE is the CPU's own.
    Gpa known = place_function(vm, data_gpa + 0x200000);
    escape_with_ve(vm, compartment, 0, known);
    uint64_t least = ~0ull;
    for (unsigned i = 0; i < 50; i++) {
        uint64_t before = views.vcpu(0).exits;
        escape_with_ve(vm, compartment, 0, known);
        least = std::min<uint64_t>(least, views.vcpu(0).exits - before);
    }
    SM_CHECK_EQ(least, 1, "a #VE has no exit but the one that ends the call");
    note("#VE by software: %llu", (unsigned long long)views.stats().ve_injected);

    // With the busy word set there is no #VE; the vCPU escapes as without ENABLE_VE.
    uint32_t busy = ~0u;
    memcpy(compartment.page(TG_PAGE_VE) + 4, &busy, 4);
    uint64_t count = compartment.data().ve_count;
    SM_CHECK_EQ(
        vm.vcpu(0).call(gate_function(gate_escape), known, region_gva(TG_PAGE_VE)).must_return(),
        return_value, "with the busy word set the vCPU goes on in the main view");
    SM_CHECK_EQ(compartment.data().ve_count, count, "with the busy word set there is no #VE");
    kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_ESCAPE);
    SM_CHECK_EQ(event.gpa, known.value, "EVENT_ESCAPE: gpa");
}

void test_escape() {
    Vm vm({.vcpus = 2});
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    vm.set_gate(ve_vector, gate_function(gate_ve));
    compartment.enable();

    for (unsigned vcpu : {1u, 0u}) {
        for (unsigned i = 0; i < 8; i++) {
            Gpa target = place_function(vm, data_gpa + (vcpu * 16 + i) * page_size + 16 * i);
            if (i % 2)
                vm.vcpu(vcpu).call(gate_function(gate_read), Gva{target.value}).must_return();
            SM_CHECK_EQ(vm.vcpu(vcpu).call(gate_function(gate_escape), target).must_return(),
                        return_value, "the vCPU goes on in the main view");
            kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_ESCAPE);
            SM_CHECK_EQ(event.vcpu_id, vcpu, "EVENT_ESCAPE: vcpu_id");
            SM_CHECK_EQ(event.view, KVM_VIEWS_SHADOW, "EVENT_ESCAPE: view");
            SM_CHECK_EQ(event.access, KVM_VIEWS_X, "EVENT_ESCAPE: access");
            SM_CHECK_EQ(event.gpa & ~0xfffull, target.page().value, "EVENT_ESCAPE: gpa");
            SM_CHECK_EQ(event.rip, target.value, "EVENT_ESCAPE: rip");
            SM_CHECK_EQ(event.cr3, TG_PML4_GPA, "EVENT_ESCAPE: cr3");
            SM_CHECK_EQ(views.vcpu(vcpu).view, KVM_VIEWS_MAIN, "the vCPU is in the main view");
        }
        // The gate works as before.
        vm.vcpu(vcpu).call(gate_function(gate_round_trips), 10).must_return();
    }
    SM_CHECK_EQ(compartment.data().ve_count, 0, "without ENABLE_VE there is no #VE");
    SM_CHECK(!views.next_event(0));
    SM_CHECK_EQ(views.stats().ve_injected, 0, "without ENABLE_VE none is injected");
}
} // namespace

void test_main() {
    require_hardware();
    test_escape();
    require_hardware(KVM_VIEWS_HW_VE);
    test_ve();
}

} // namespace shadowmon::kvmtest
