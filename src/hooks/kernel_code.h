// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/code_map.h"
#include "src/hooks/kernel_tables.h"
#include "src/hooks/off_limits.h"

#include <span>
#include <vector>

namespace shadowmon {

/// Bytes of the guest's that a hook of ours covers at the moment.
struct CoveredBytes {
    Gva at;
    std::span<const std::byte> original;
};

/// All that is known of the kernel's text before the first hook is planned: what is there, what
/// leads where, what the kernel does with it. A copy: it is made anew when the guest has
/// changed its text.
struct KernelCode {
    CodeMap map;
    std::vector<Refusal> functions; ///< of each function of the map; none: look at the instruction
    std::vector<Gva> may_fault;     ///< with an exception-table entry, ascending
    std::vector<KernelTables::Patched> patched; ///< ascending
    OffLimits limits;

    /// What the kernel does with the instruction at an address: none, or the reason.
    Refusal kernel_use(Gva at) const;
    bool faults_are_repaired(Gva at) const;
};

/// Reads text and tables from guest memory; `covered` is put back in the copy.
Result<KernelCode> read_kernel_code(const KernelInfo& kernel, const PhysicalMemory& memory,
                                    std::span<const CoveredBytes> covered = {});

} // namespace shadowmon
