// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/layout.h"
#include "src/guest/kernel_info.h"
#include "src/hooks/hook_planner.h"

#include <shadowmonitor/explain.h>

namespace shadowmon {

/// Explains a hook at any address. `page` is where the displaced code would be put: the first
/// hook's is there, those of later ones behind it.
Explanation explain(const HookPlanner& planner, const KernelInfo& kernel, Gva at,
                    Gva page = Gva(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET));

} // namespace shadowmon
