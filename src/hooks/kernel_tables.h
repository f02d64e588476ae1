// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/guest/modules.h"
#include "src/hooks/kernel_code.h"

#include <span>
#include <vector>

namespace shadowmon {

/// What the kernel's own tables say about its text: found through their symbols in the guest's
/// memory. A table that this kernel does not have is empty. Plain data; every address is what
/// the guest wrote there and may lead anywhere.
struct KernelTables {
    std::vector<PatchedSite> patched;
    std::vector<Gva> may_fault;    ///< have an entry in the exception table
    std::vector<Gva> continued_at; ///< fixups, targets of jump labels, places behind a WARN
    size_t ftrace_records = 0;     ///< of `patched`; 0 also if ftrace's list could not be read
};

/// Fails naming the table that is malformed.
Result<KernelTables> read_kernel_tables(const KernelInfo& kernel, const PhysicalMemory& memory);

/// The same of one module, whose own tables these are; `patched` holds its own places only.
Result<KernelTables> read_module_tables(const KernelInfo& kernel, const PhysicalMemory& memory,
                                        const GuestModule& module);

/// Puts ftrace's NOP in a copy of the text from `start` on where the kernel has a breakpoint in its
/// place: for the moment that it takes to write a CALL there, or the NOP again.
void settle_ftrace_places(const std::vector<PatchedSite>& patched, Gva start,
                          std::span<std::byte> text);

} // namespace shadowmon
