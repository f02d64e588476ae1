// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/guest_offer.h"
#include "abi/kvm_views.h"
#include "src/guest/kernel_info.h"
#include <shadowmonitor/options.h>

namespace shadowmon {

/// The page-table entry that leads to the compartment's range.
struct TableEntry {
    Gpa gpa;
    uint64_t value; ///< what it holds: 0, or the guest's reservation
    bool offered;   ///< by the guest, and verified
};

/// True for what a guest puts into an entry to reserve its range. The CPU sees an entry that
/// is not present.
bool is_reservation(uint64_t entry);

/// Where the entry is that an offer names. The offer is the guest's word: it is believed only
/// as far as a walk of the page tables for the compartment's address comes to that very entry.
Result<Gpa> verify_offer(const kvm_views_offer& offer, const PageTables& tables);

/// The entry, which must be free or reserved as `placement` says. Nothing is written.
Result<TableEntry> choose_entry(const KernelInfo& kernel, const PhysicalMemory& memory,
                                Placement placement, const kvm_views_offer& offer);

} // namespace shadowmon
