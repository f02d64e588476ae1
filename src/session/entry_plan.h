// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/compartment/compartment.h"
#include "src/session/guest_offer.h"
#include "src/session/guest_survey.h"

#include <vector>

namespace shadowmon {

/// How the guest gets into the compartment: the page-table entry that leads there and
/// the interrupt gate of vector 20, with what is there now.
struct EntryPlan {
    TableEntry pud; ///< of level3_kernel_pgt
    Gpa idt_entry;  ///< of vector 20
    IdtEntry old_entry;
    uint16_t selector; ///< of the kernel's code segment
    Gva chain_handler; ///< the guest's own handler of vector 20, 0 if none

    /// The two patches that open the way.
    std::vector<kvm_views_patch> patches(Gpa region_gpa, Gva gate) const;
};

/// Looks at both places. Refuses when they are in use in a way that cannot be shared:
/// another monitor's, or a leftover of one. `offer` is not looked at with Placement::host.
Result<EntryPlan> plan_entry(const KernelInfo& kernel, const GuestCpus& cpus,
                             const PhysicalMemory& memory, Placement placement,
                             const kvm_views_offer& offer);

} // namespace shadowmon
