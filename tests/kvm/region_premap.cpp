// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that the pages of the region are mapped in both views before the guest uses them: the
/// first use of a page makes no exit, on no vCPU, also after KVM has dropped all its roots and in
/// a region of many pages; that a page whose rights change is mapped on demand; that RAM used in
/// one view is mapped in the other as well, with the rights of that one; and that views which end
/// while their region is being mapped leave nothing behind.
#include "tests/kvm/lib/test.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

namespace shadowmon::kvmtest {

namespace {

constexpr uint32_t many_pages = 8192;
constexpr uint32_t mapped_pages = TG_REGION_MAX_PAGES; // of them, at the end, in the guest's tables
constexpr uint8_t allow_r = KVM_VIEWS_R, allow_w = KVM_VIEWS_W, allow_x = KVM_VIEWS_X;

uint64_t faults(const Views& views) { return views.stats().region_faults; }

/// Exits of a call besides the one that ends it.
template <typename Address>
uint64_t exits_of(const Views& views, Vcpu& vcpu, Gva function, Address page) {
    uint64_t before = views.vcpu(vcpu.id()).exits;
    vcpu.call(function, page, 1).must_return();
    return views.vcpu(vcpu.id()).exits - before - 1;
}

void test_first_use() {
    Vm vm({.vcpus = 2});
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();

    for (unsigned i = 0; i < 2; i++) {
        // Guest RAM, page tables above all, is mapped as it is used; the region is not.
        vm.vcpu(i).call(gate_function(gate_round_trips), 1).must_return();
        // An interrupt of the host meets one or the other.
        uint64_t least = ~0ull;
        for (uint32_t page : {TG_PAGE_DATA, TG_PAGE_STACK, TG_PAGE_RONLY, TG_PAGE_VE})
            least = std::min(
                least, exits_of(views, vm.vcpu(i), gate_function(gate_write), region_gva(page)));
        SM_CHECK_EQ(least, 0, "the first use of a page makes no exit");
    }
    vm.vcpu(0).call(guest_function(guest_read8), region_gva(TG_PAGE_RONLY)).must_return();
    SM_CHECK_EQ(faults(views), 0, "no page of the region was mapped because of a fault");

    // Rights that change: the page comes back when it is used.
    SM_CHECK_EQ(
        views.protect(compartment.gpa(TG_PAGE_DATA), 1, KVM_VIEWS_SHADOW, allow_r | allow_w), 0,
        "PROTECT works");
    vm.vcpu(0).call(gate_function(gate_read), region_gva(TG_PAGE_DATA)).must_return();
    SM_CHECK_EQ(faults(views), 1, "a page that was taken out is mapped by its next use");

    // A memslot that goes takes all roots with it.
    SM_CHECK_EQ(vm.set_slot(5, Gpa{0x8000000}, vm.ram(Gpa{0}, page_size), page_size), 0, "a slot");
    SM_CHECK_EQ(vm.set_slot(5, Gpa{0x8000000}, vm.ram(Gpa{0}, page_size), 0), 0, "it goes");
    for (unsigned i = 0; i < 2; i++) {
        for (uint32_t page : {TG_PAGE_DATA, TG_PAGE_STACK, TG_PAGE_RONLY, TG_PAGE_VE})
            vm.vcpu(i).call(gate_function(gate_write), region_gva(page), 1).must_return();
    }
    SM_CHECK_EQ(faults(views), 1, "new roots have the region from the start");
    SM_CHECK_EQ(views.stats().violations, 0, "no access was forbidden");
}

/// Pages of RAM that no view has mapped yet, each with a word of its own.
struct FreshRam {
    static constexpr Gpa gpa{0x8000000};
    static constexpr uint32_t pages = 16;

    explicit FreshRam(Vm& vm)
        : memory(mmap(nullptr, pages * page_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                 pages * page_size) {
        SM_CHECK(memory.bytes() != MAP_FAILED);
        for (uint32_t i = 0; i < pages; i++)
            memory.bytes()[i * page_size] = static_cast<uint8_t>(i + 1);
        SM_CHECK_EQ(vm.set_slot(5, gpa, memory.bytes(), pages * page_size), 0, "a slot");
    }

    static Gpa page(uint32_t i) { return gpa + uint64_t{i} * page_size; }

    Mapping memory;
};

void test_ram() {
    Vm vm;
    FreshRam ram(vm);
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    Vcpu& vcpu = vm.vcpu(0);
    const Gva read = guest_function(guest_read8), write = guest_function(guest_write8);
    const Gva shadow_read = gate_function(gate_read);
    // The functions' own pages, and the guest's tables of the pages.
    vcpu.call(read, ram.page(0)).must_return();
    vcpu.call(write, ram.page(0), 1).must_return();
    vcpu.call(shadow_read, ram.page(0)).must_return();

    // An interrupt of the host meets one page or the other.
    uint64_t main_first = ~0ull, shadow_first = ~0ull, written = ~0ull, first = 0;
    for (uint32_t i = 1; i < 5; i++) {
        first += exits_of(views, vcpu, read, ram.page(i)) > 0;
        main_first = std::min(main_first, exits_of(views, vcpu, shadow_read, ram.page(i)));
    }
    for (uint32_t i = 5; i < 9; i++) {
        first += exits_of(views, vcpu, shadow_read, ram.page(i)) > 0;
        shadow_first = std::min(shadow_first, exits_of(views, vcpu, read, ram.page(i)));
        SM_CHECK_EQ(vcpu.call(shadow_read, ram.page(i)).must_return() & 0xff, i + 1, "its own");
    }
    for (uint32_t i = 9; i < 13; i++) {
        first += exits_of(views, vcpu, shadow_read, ram.page(i)) > 0;
        written = std::min(written, exits_of(views, vcpu, write, ram.page(i)));
    }
    SM_CHECK_EQ(first, 12, "the first use in any view exits");
    SM_CHECK_EQ(main_first, 0, "a page used in the main view is mapped in the shadow view");
    SM_CHECK_EQ(shadow_first, 0, "a page used in the shadow view is mapped in the main view");
    SM_CHECK_EQ(written, 0, "there it may be written");

    // Each view keeps its rights.
    SM_CHECK_EQ(views.protect(FreshRam::gpa + 13 * page_size, 1, KVM_VIEWS_MAIN, allow_r), 0,
                "PROTECT works");
    vcpu.call(shadow_read, ram.page(13)).must_return();
    SM_CHECK_EQ(views.stats().violations, 0, "no access was forbidden");
    vcpu.call(write, ram.page(13), 7).must_return();
    SM_CHECK_EQ(views.stats().violations, 1, "what was mapped from the shadow view is read-only");
    SM_CHECK_EQ(vcpu.call(read, ram.page(13)).must_return() & 0xff, 14, "and was not written");
}

/// The gate is the first of the pages that the guest can reach.
void place_many(Vm& vm, const Views& views, Mapping& map, uint32_t pages) {
    const Gpa gpa = Compartment::default_gpa();
    const Gpa gate = gpa + uint64_t{pages - mapped_pages} * page_size;
    SM_CHECK_EQ(views.set_region(gpa, pages), 0, "SET_REGION works");
    map = views.map_region(pages);
    memcpy(map.bytes() + (pages - mapped_pages) * page_size, region_text_begin,
           static_cast<size_t>(region_text_end - region_text_begin));
    SM_CHECK_EQ(views.protect(gpa, pages, KVM_VIEWS_SHADOW, allow_r | allow_w), 0, "PROTECT works");
    SM_CHECK_EQ(views.protect(gate, 1, KVM_VIEWS_MAIN, allow_x), 0, "PROTECT works");
    SM_CHECK_EQ(views.protect(gate, 1, KVM_VIEWS_SHADOW, allow_r | allow_x), 0, "PROTECT works");
    vm.map_region_in_guest(gate, mapped_pages);
    SM_CHECK_EQ(views.enable(region_gva(0), mapped_pages * page_size), 0, "ENABLE works");
}

uint64_t ticks_of(Vcpu& vcpu) {
    uint64_t start = __builtin_ia32_rdtsc();
    vcpu.call(guest_function(guest_return_value)).must_return();
    return __builtin_ia32_rdtsc() - start;
}

void test_many_pages() {
    Vm vm;
    Views views = Views::attach(vm.fd());
    Mapping map;
    place_many(vm, views, map, many_pages);
    uint64_t first = ticks_of(vm.vcpu(0));
    uint64_t later = ticks_of(vm.vcpu(0));
    note("%u pages: the first entry takes %llu TSC ticks, %llu per page; the second %llu",
         many_pages, (unsigned long long)first, (unsigned long long)(first - later) / many_pages,
         (unsigned long long)later);
    for (uint32_t page = 1; page < mapped_pages; page++)
        vm.vcpu(0).call(gate_function(gate_write), region_gva(page), page).must_return();
    SM_CHECK_EQ(faults(views), 0, "all pages were mapped");
    for (uint32_t page = 1; page < mapped_pages; page++) {
        uint64_t value;
        memcpy(&value, map.bytes() + (many_pages - mapped_pages + page) * page_size, sizeof(value));
        SM_CHECK_EQ(value, page, "each page is itself");
    }
}

/// The views end while the vCPUs are on their way in.
void test_end_meanwhile() {
    Vm vm({.vcpus = 2});
    for (unsigned round = 0; round < 20; round++) {
        Views views = Views::attach(vm.fd());
        Mapping map;
        // Enough for the vCPUs to be on their way for a while.
        place_many(vm, views, map, 2 * mapped_pages);
        for (unsigned i = 0; i < 2; i++)
            vm.vcpu(i).start(guest_function(guest_return_value));
        if (round % 2)
            SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
        else
            views.close();
        for (unsigned i = 0; i < 2; i++)
            SM_CHECK_EQ(vm.vcpu(i).wait().must_return(), return_value, "the guest goes on");
        vm.vcpu(0).clear_mmio();
        vm.vcpu(0).call(guest_function(guest_read8), region_gva(1)).must_return();
        SM_CHECK_EQ(vm.vcpu(0).mmio().size(), 1, "the region is a hole again");
        if (round % 2 == 0)
            wait_until("there can be views again", [&] {
                Views next;
                return Views::try_attach(vm.fd(), &next) >= 0;
            });
    }
}

} // namespace

void test_main() {
    require_hardware();
    test_first_use();
    test_ram();
    test_many_pages();
    set_time_limit(120);
    test_end_meanwhile();
}

} // namespace shadowmon::kvmtest
