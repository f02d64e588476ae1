// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/guest/kernel_info.h"
#include "src/hooks/site_planner.h"

#include <string>
#include <vector>

namespace shadowmon {

/// What to watch, as the user names it.
struct MonitorSet {
    bool syscalls = false;
    bool switches = false;

    /// "syscalls,switches"; the error lists what there is.
    static Result<MonitorSet> parse(const std::string& names);
};

/// One hook, ready to be applied.
struct PlannedHook {
    std::string function;
    Site site;
    Gpa gpa;      ///< of the site
    sm_hook hook; ///< for the payload's table
};

/// All hooks of a trace and the code they displace. Nothing is applied here.
struct HookPlan {
    std::vector<PlannedHook> hooks;
    std::vector<std::byte> displaced; ///< for SM_DISPLACED_OFFSET

    std::vector<sm_hook> table() const;
};

/// Finds the functions of the monitors in the guest's kernel and a place for the hook
/// in each. Fails naming the function that has none. Functions that only some kernels
/// have (32-bit system calls) are left out where they are missing.
Result<HookPlan> plan_hooks(const MonitorSet& monitors, const KernelInfo& kernel,
                            const PhysicalMemory& memory);

} // namespace shadowmon
