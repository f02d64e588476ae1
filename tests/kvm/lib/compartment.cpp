// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/compartment.h"

#include "tests/kvm/lib/check.h"

#include <cstring>
#include <ctime>
#include <unistd.h>

namespace shadowmon::kvmtest {

Compartment::Compartment(const Views& views, Gpa gpa) : views_(views), gpa_(gpa) {
    SM_CHECK_EQ(views.set_region(gpa, TG_REGION_PAGES), 0, "SET_REGION works");
    map_ = views.map_region(TG_REGION_PAGES);

    auto size = static_cast<size_t>(region_text_end - region_text_begin);
    SM_CHECK(size <= page_size);
    memcpy(page(TG_PAGE_GATE), region_text_begin, size);
    auto secret_size = static_cast<size_t>(region_text_end - region_secret);
    memcpy(page(TG_PAGE_SECRET), region_secret, secret_size);
    memcpy(page(TG_PAGE_XONLY), region_secret, secret_size);

    constexpr uint8_t r = KVM_VIEWS_R, w = KVM_VIEWS_W, x = KVM_VIEWS_X;
    const struct {
        uint32_t page, count;
        uint8_t main, shadow;
    } rights[] = {
        {TG_PAGE_GATE, 1, x, r | x},          {TG_PAGE_DATA, 1, 0, r | w},
        {TG_PAGE_STACK, 1, 0, r | w},         {TG_PAGE_SECRET, 1, 0, r | x},
        {TG_PAGE_XONLY, 1, x, r | x},         {TG_PAGE_RONLY, 1, r, r | w},
        {TG_PAGE_VE, TG_MAX_VCPUS, 0, r | w}, {TG_PAGE_TABLES, 2, r, r},
    };
    for (const auto& entry : rights) {
        if (entry.main)
            SM_CHECK_EQ(
                views.protect(this->gpa(entry.page), entry.count, KVM_VIEWS_MAIN, entry.main), 0,
                "PROTECT of a region page in the main view works");
        SM_CHECK_EQ(
            views.protect(this->gpa(entry.page), entry.count, KVM_VIEWS_SHADOW, entry.shadow), 0,
            "PROTECT of a region page in the shadow view works");
    }
}

uint64_t Compartment::build_tables() const {
    auto* pmd = reinterpret_cast<uint64_t*>(page(TG_PAGE_TABLES));
    auto* pt = reinterpret_cast<uint64_t*>(page(TG_PAGE_TABLES + 1));
    pmd[0] = gpa(TG_PAGE_TABLES + 1).value | pte_kernel_page;
    for (uint32_t i = 0; i < TG_REGION_PAGES; i++)
        pt[i] = gpa(i).value | pte_kernel_page;
    return gpa(TG_PAGE_TABLES).value | pte_kernel_page;
}

void Compartment::enable(uint32_t flags) const {
    SM_CHECK_EQ(views_.enable(region_gva(0), TG_REGION_PAGES * page_size, flags,
                              flags & KVM_VIEWS_ENABLE_VE ? TG_PAGE_VE : 0),
                0, "ENABLE works");
}

uint64_t monotonic_ms() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

void wait_step(const char* what, uint64_t start, uint64_t limit) {
    if (monotonic_ms() - start > limit)
        SM_FAIL("waited in vain until %s", what);
    // Asleep between two looks: what is waited for is done by others, who need the CPUs. After 100
    // us again, the kernel with lockdep had no time left for the vCPUs, which give way to all.
    usleep(1000);
}

} // namespace shadowmon::kvmtest
