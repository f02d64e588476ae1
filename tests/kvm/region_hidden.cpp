// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that the main view does not have what it must not have, all seen from guest code: an
/// absent region page is a hole (reads reach the VMM as MMIO and give all ones, writes change
/// nothing, a jump there fails), an execute-only page can be run but not read or written, and a
/// read-only page cannot be written or run. None of this hinders the shadow view.
#include "tests/kvm/lib/test.h"

#include <cstring>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned ud_vector = 6, gp_vector = 13;

/// Runs one access to a region page and says whether it reached the VMM as MMIO there.
bool went_to_vmm(const Compartment& compartment, Vcpu& vcpu, uint32_t page) {
    bool seen = false;
    for (const MmioAccess& access : vcpu.mmio())
        seen |= access.gpa.page() == compartment.gpa(page);
    vcpu.clear_mmio();
    return seen;
}

struct Fixture {
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment{views};

    uint64_t read(uint32_t page) {
        return vcpu.call(guest_function(guest_read8), region_gva(page, 64)).must_return();
    }
    Outcome write(uint32_t page, uint64_t value) {
        return vcpu.call(guest_function(guest_write8), region_gva(page, 64), value);
    }
    uint64_t& owners(uint32_t page) {
        return *reinterpret_cast<uint64_t*>(compartment.page(page) + 64);
    }
};

void check_absent(Fixture& f, uint32_t page) {
    f.owners(page) = 0x5ec2e7;
    SM_CHECK_EQ(f.read(page), ~0ull, "a read of an absent page gives all ones");
    SM_CHECK(went_to_vmm(f.compartment, f.vcpu, page));
    f.write(page, 0xbad).must_return();
    SM_CHECK(went_to_vmm(f.compartment, f.vcpu, page));
    SM_CHECK_EQ(f.owners(page), 0x5ec2e7, "a write to an absent page changes nothing");
    f.vcpu.call(guest_function(guest_stos), region_gva(page, 64), 0xbad, 4).must_return();
    f.vcpu.call(guest_function(guest_xchg8), region_gva(page, 64), 0xbad).must_return();
    f.vcpu.call(guest_function(guest_ins), region_gva(page, 64), 0x99, 8);
    SM_CHECK_EQ(f.owners(page), 0x5ec2e7, "emulated writes to an absent page change nothing");
    // A copy from the page by an instruction that KVM emulates does not get its content either.
    f.vm.at<uint64_t>(TG_DATA_GPA) = 0;
    f.vcpu.call(guest_function(guest_movs), Gpa{TG_DATA_GPA}, region_gva(page, 64), 1)
        .must_return();
    SM_CHECK_EQ(f.vm.at<uint64_t>(TG_DATA_GPA), ~0ull, "a string copy reads all ones");
    f.vcpu.clear_mmio();
}

/// A fetch from a hole is something that KVM cannot go on from; a fetch that rights forbid raises
/// an exception. Either way no instruction of the page runs.
void check_jump_fails(Fixture& f, uint32_t page) {
    Outcome outcome = f.vcpu.call(guest_function(guest_jump), region_gva(page));
    if (outcome.returned())
        SM_FAIL("a jump to page %u came back with 0x%llx", page, (unsigned long long)outcome.value);
    if (outcome.end == Outcome::End::broken) {
        SM_CHECK_EQ(outcome.rip, region_gva(page).value, "no instruction of the page was run");
    } else {
        SM_CHECK(outcome.end == Outcome::End::exception);
        SM_CHECK(outcome.vector == ud_vector || outcome.vector == gp_vector);
    }
    SM_CHECK(outcome.value != secret_value);
    f.vcpu.clear_mmio();
}
} // namespace

void test_main() {
    require_hardware();
    Fixture f;
    f.vm.map_region_in_guest(f.compartment.gpa(), TG_REGION_PAGES);

    // Before ENABLE the region is nowhere.
    f.owners(TG_PAGE_RONLY) = 0x5ec2e7;
    SM_CHECK_EQ(f.read(TG_PAGE_RONLY), ~0ull, "before ENABLE the region is a hole");
    f.vcpu.clear_mmio();
    f.compartment.enable();

    for (uint32_t page : {TG_PAGE_DATA, TG_PAGE_STACK, TG_PAGE_SECRET})
        check_absent(f, page);
    memcpy(f.compartment.page(TG_PAGE_SECRET), region_secret, region_text_end - region_secret);
    memcpy(f.compartment.page(TG_PAGE_DATA), region_secret, region_text_end - region_secret);
    check_jump_fails(f, TG_PAGE_DATA);
    check_jump_fails(f, TG_PAGE_SECRET);

    // Execute-only: runs, is not read, is not written.
    SM_CHECK_EQ(f.vcpu.call(region_gva(TG_PAGE_XONLY)).must_return(), secret_value,
                "an execute-only page runs in the main view");
    uint64_t content = f.owners(TG_PAGE_XONLY) = 0x123456;
    Outcome read = f.vcpu.call(guest_function(guest_read8), region_gva(TG_PAGE_XONLY, 64));
    SM_CHECK(!read.returned() || read.value == 0 || read.value == ~0ull);
    f.write(TG_PAGE_XONLY, 0xbad);
    f.vcpu.call(guest_function(guest_xchg8), region_gva(TG_PAGE_XONLY, 64), 0xbad);
    SM_CHECK_EQ(f.owners(TG_PAGE_XONLY), content, "an execute-only page cannot be written");
    f.vm.at<uint64_t>(TG_DATA_GPA) = 0;
    f.vcpu.call(guest_function(guest_movs), Gpa{TG_DATA_GPA}, region_gva(TG_PAGE_XONLY, 64), 1);
    SM_CHECK(f.vm.at<uint64_t>(TG_DATA_GPA) != content);
    f.vcpu.clear_mmio();

    // Read-only: is read, is not written, does not run.
    SM_CHECK_EQ(f.read(TG_PAGE_RONLY), 0x5ec2e7, "a read-only page is read");
    SM_CHECK(!went_to_vmm(f.compartment, f.vcpu, TG_PAGE_RONLY));
    f.write(TG_PAGE_RONLY, 0xbad);
    f.vcpu.call(guest_function(guest_stos), region_gva(TG_PAGE_RONLY, 64), 0xbad, 4);
    f.vcpu.call(guest_function(guest_xchg8), region_gva(TG_PAGE_RONLY, 64), 0xbad);
    f.vcpu.call(guest_function(guest_cmpxchg8), region_gva(TG_PAGE_RONLY, 64), 0x5ec2e7, 0xbad);
    f.vcpu.call(guest_function(guest_ins), region_gva(TG_PAGE_RONLY, 64), 0x99, 8);
    SM_CHECK_EQ(f.owners(TG_PAGE_RONLY), 0x5ec2e7, "a read-only page cannot be written");
    memcpy(f.compartment.page(TG_PAGE_RONLY), region_secret, region_text_end - region_secret);
    check_jump_fails(f, TG_PAGE_RONLY);

    // The shadow view has all of it.
    f.owners(TG_PAGE_DATA) = 0x77;
    SM_CHECK_EQ(f.vcpu.call(gate_function(gate_read), region_gva(TG_PAGE_DATA, 64)).must_return(),
                0x77, "the shadow view reads a page that the main view lacks");
    SM_CHECK_EQ(f.vcpu.call(gate_function(gate_read), region_gva(TG_PAGE_XONLY, 64)).must_return(),
                content, "the shadow view reads a page that is execute-only in the main view");
    f.vcpu.call(gate_function(gate_write), region_gva(TG_PAGE_RONLY, 64), 0x88).must_return();
    SM_CHECK_EQ(f.owners(TG_PAGE_RONLY), 0x88, "the shadow view writes a page that is read-only");
    SM_CHECK_EQ(f.read(TG_PAGE_RONLY), 0x88, "the main view reads what the shadow view wrote");
    SM_CHECK_EQ(
        f.vcpu.call(gate_function(gate_call_shadow), region_gva(TG_PAGE_SECRET)).must_return(),
        secret_value, "the shadow view runs a page that the main view lacks");

    // The same after a trip: nothing of the shadow view stays behind in a TLB or MMIO cache.
    for (int i = 0; i < 50; i++) {
        f.vcpu.call(gate_function(gate_read), region_gva(TG_PAGE_DATA, 64)).must_return();
        SM_CHECK_EQ(f.read(TG_PAGE_DATA), ~0ull, "after a gate pass the page is still absent");
    }
    // Rights can be changed while armed.
    SM_CHECK_EQ(f.views.protect(f.compartment.gpa(TG_PAGE_DATA), 1, KVM_VIEWS_MAIN, KVM_VIEWS_R), 0,
                "PROTECT while armed works");
    SM_CHECK_EQ(f.read(TG_PAGE_DATA), 0x77, "a page that was given to the main view is read");
    SM_CHECK_EQ(f.views.protect(f.compartment.gpa(TG_PAGE_DATA), 1, KVM_VIEWS_MAIN, 0), 0,
                "PROTECT to absent works");
    SM_CHECK_EQ(f.read(TG_PAGE_DATA), ~0ull, "a page that was taken away is absent");

    // A memslot that the VMM puts over the region is reported and changes nothing.
    constexpr uint32_t slot_number = 7;
    std::vector<uint8_t> memory(3 * page_size);
    auto* aligned = reinterpret_cast<uint8_t*>(
        (reinterpret_cast<uintptr_t>(memory.data()) + page_size - 1) & ~(page_size - 1));
    Gpa over = f.compartment.gpa(TG_PAGE_RONLY);
    while (f.views.next_event(0)) // What was tried above.
        continue;
    SM_CHECK_EQ(f.vm.set_slot(slot_number, over, aligned, 2 * page_size), 0,
                "the memslot is accepted");
    kvm_views_event event = f.views.must_get_event(KVM_VIEWS_EVENT_SLOT);
    SM_CHECK_EQ(event.gpa, over.value, "EVENT_SLOT: gpa");
    SM_CHECK_EQ(event.arg, 2 * page_size, "EVENT_SLOT: bytes");
    SM_CHECK_EQ(f.read(TG_PAGE_RONLY), 0x88, "the region's page stays");
    SM_CHECK_EQ(f.vm.set_slot(slot_number, over, aligned, 0), 0, "the memslot is deleted");
    SM_CHECK_EQ(f.read(TG_PAGE_RONLY), 0x88, "the region's page stays");

    SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
    SM_CHECK_EQ(f.read(TG_PAGE_RONLY), ~0ull, "after DISABLE the region is a hole");
}

} // namespace shadowmon::kvmtest
