// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/hook_planner.h"
#include "src/session/hook_set.h"

#include <string>
#include <vector>

namespace shadowmon {

/// The hooks of the monitor `irq`.
struct IrqPlan {
    /// Named by the function that handles the vector ("sysvec_apic_timer_interrupt",
    /// "common_interrupt"); the exits also with irq_exit_suffix.
    std::vector<HookRequest> requests;
    sm_irq_offsets offsets{};
    std::vector<std::string> notes; ///< what is not watched, and why
};
inline constexpr std::string_view irq_exit_suffix = "%exit";

/// Finds the interrupt handlers of the guest by its IDT and code, places for hooks at their
/// beginnings and ends, and how the payload gets from a vector to a device's handler. What
/// cannot be watched is left out as a whole, never an entry without its exits, and told in a note;
/// fails, naming the step, if nothing can be watched at all.
Result<IrqPlan> plan_irq_hooks(const KernelInfo& kernel, const PhysicalMemory& memory,
                               HookPolicy policy);

} // namespace shadowmon
