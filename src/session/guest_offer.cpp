// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/guest_offer.h"

#include "abi/layout.h"
#include "src/compartment/page_tables.h"

namespace shadowmon {

namespace {

constexpr unsigned pud_level = 3;
static_assert(SM_COMPARTMENT_SIZE == uint64_t{1} << 30, "one entry of that level");
static_assert((SM_RESERVATION_BITS & 1) == 0, "a reservation is not present");

} // namespace

bool is_reservation(uint64_t entry) {
    return (entry & SM_RESERVATION_BITS_MASK) == SM_RESERVATION_BITS;
}

Result<Gpa> verify_offer(const kvm_views_offer& offer, const PageTables& tables) {
    if (offer.version == 0)
        return failf("the guest offers no address range: load shadowmon_guest there (the module in "
                     "guest/), or write 1 to its parameter `offered`; --place host does without");
    if (offer.version != SM_OFFER_VERSION)
        return failf("the guest's offer is of version {}, this program knows version {}",
                     offer.version, SM_OFFER_VERSION);
    if (offer.gva != SM_COMPARTMENT_GVA || offer.size != SM_COMPARTMENT_SIZE)
        return failf("the guest offers {:#x} bytes at {:#x}; the monitor needs {:#x} at {:#x}",
                     offer.size, offer.gva, SM_COMPARTMENT_SIZE, SM_COMPARTMENT_GVA);
    auto walked = tables.entry_of(Gva(SM_COMPARTMENT_GVA), pud_level);
    if (!walked)
        return fail(walked.error().in("verify the guest's offer"));
    if (walked->value != offer.entry_gpa)
        return failf("the guest's offer is not to be believed: it names the page-table entry at "
                     "{:#x}, but a walk for {:#x} comes to the one at {:#x}",
                     offer.entry_gpa, SM_COMPARTMENT_GVA, walked->value);
    return *walked;
}

Result<TableEntry> choose_entry(const KernelInfo& kernel, const PhysicalMemory& memory,
                                Placement placement, const kvm_views_offer& offer) {
    TableEntry entry{kernel.level3_kernel_gpa + pud_index * sizeof(uint64_t), 0, false};
    auto bytes = std::as_writable_bytes(std::span(&entry.value, 1));
    if (auto status = memory.read(entry.gpa, bytes); !status)
        return fail(status.error().in("read the kernel's page table"));

    const bool reserved = is_reservation(entry.value);
    if (placement == Placement::guest || (placement == Placement::automatic && reserved)) {
        auto offered = verify_offer(offer, kernel.image.tables(memory));
        if (offered && *offered != entry.gpa)
            offered = failf("the guest's page tables lead for {:#x} through the entry at {:#x}, "
                            "which is not of level3_kernel_pgt",
                            SM_COMPARTMENT_GVA, offered->value);
        if (!offered && placement == Placement::guest)
            return fail(offered.error());
        entry.offered = offered.has_value();
    }
    switch (placement) {
    case Placement::automatic:
        // Also a mere reservation: to the CPU nothing is there, and the monitor is what it is for.
        if (entry.value == 0 || reserved)
            return entry;
        break;
    case Placement::guest:
        if (reserved)
            return entry;
        if (entry.value == 0)
            return failf(
                "the guest offers {:#x} but has not reserved it: its page-table entry is 0",
                SM_COMPARTMENT_GVA);
        break;
    case Placement::host:
        if (entry.value == 0)
            return entry;
        if (reserved)
            return failf("{:#x} is reserved by a module in the guest: --place guest or auto takes "
                         "it",
                         SM_COMPARTMENT_GVA);
        break;
    }
    return failf("the kernel's page-table entry for {:#x} is in use ({:#x}): another monitor is "
                 "attached, or one left it behind",
                 SM_COMPARTMENT_GVA, entry.value);
}

} // namespace shadowmon
