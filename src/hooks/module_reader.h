// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/modules.h"
#include "src/hooks/kernel_reader.h"

#include <span>

namespace shadowmon {

/// Reads text and tables of one loaded module; `covered` is put back in the copy. What is refused
/// in the kernel's own text is refused here: its tables are the module's, places of ftrace among
/// them. Targets of jumps are known within the module, to which nobody else jumps but to a
/// function's beginning.
///
/// Fails if the module is neither live nor about to be initialized, for then its memory may go at
/// any moment, if its text is out
/// of the compartment's reach, and naming the step if what it says of itself cannot be read.
Result<KernelCode> read_module_code(const KernelInfo& kernel, const PhysicalMemory& memory,
                                    const GuestModule& module, const ModuleSymbols& symbols,
                                    std::span<const CoveredBytes> covered = {});

} // namespace shadowmon
