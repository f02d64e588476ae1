// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/session/hook_set.h"

#include <shadowmonitor/options.h>
#include <vector>

namespace shadowmon {

/// Finds the functions of the monitors in the guest's kernel and a place for the hook
/// in each. Fails naming the function that has none. Functions that only some kernels
/// have (32-bit system calls) are left out where they are missing. Nothing is applied here.
Result<std::vector<HookRequest>> plan_hooks(const MonitorSet& monitors, const KernelInfo& kernel,
                                            const PhysicalMemory& memory);

} // namespace shadowmon
