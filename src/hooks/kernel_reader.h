// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/kernel_code.h"

#include <span>

namespace shadowmon {

/// Bytes of the guest's that a hook of ours covers at the moment.
struct CoveredBytes {
    Gva at;
    std::span<const std::byte> original;
};

/// Reads text and tables from guest memory; `covered` is put back in the copy.
Result<KernelCode> read_kernel_code(const KernelInfo& kernel, const PhysicalMemory& memory,
                                    std::span<const CoveredBytes> covered = {});

} // namespace shadowmon
