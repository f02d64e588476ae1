// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/code_map.h"
#include "src/hooks/off_limits.h"

#include <vector>

namespace shadowmon {

/// An instruction that the kernel rewrites as a whole while it runs.
struct PatchedSite {
    Gva at;
    Refusal why; ///< static_key, static_call or ftrace
};

/// All that is known of the kernel's text before the first hook is planned: what is there, what
/// leads where, what the kernel does with it. A copy: it is made anew when the guest has
/// changed its text.
struct KernelCode {
    CodeMap map;
    std::vector<Refusal> functions; ///< of each function of the map; none: look at the instruction
    std::vector<Gva> may_fault;     ///< with an exception-table entry, ascending
    std::vector<PatchedSite> patched; ///< ascending
    OffLimits limits;

    /// What the kernel does with the instruction at an address: none, or the reason.
    Refusal kernel_use(Gva at) const;
    bool faults_are_repaired(Gva at) const;
};

} // namespace shadowmon
