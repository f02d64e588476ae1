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

/// Bytes of the guest's that hooks cover at the moment.
using CoveredPlaces = std::vector<std::pair<Gva, std::vector<std::byte>>>;

/// A hook at which a vCPU waits that is about to initialize a module, whose code and symbols are
/// ready by then. Fails if this kernel has no such place.
Result<HookRequest> plan_loading_guard(const KernelInfo& kernel, const PhysicalMemory& memory,
                                       const CoveredPlaces& covered);

/// A hook at which a vCPU waits that is about to give back the memory of a module, until the host
/// has taken its hooks out. Fails if this kernel has no such place.
Result<HookRequest> plan_module_guard(const KernelInfo& kernel, const PhysicalMemory& memory,
                                      const CoveredPlaces& covered);

} // namespace shadowmon
