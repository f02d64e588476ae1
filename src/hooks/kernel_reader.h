// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/kernel_code.h"

#include <optional>
#include <span>

namespace shadowmon {

/// Bytes of the guest's that a hook of ours covers at the moment.
struct CoveredBytes {
    Gva at;
    std::span<const std::byte> original;
};

/// A part of the kernel's text.
struct TextRange {
    Gva start, end;
};

/// Reads text and tables from guest memory; `covered` is put back in the copy. With `only`, that
/// part of the text is read and all else is none: much quicker, but what leads into it by direct
/// jumps from elsewhere is not known then.
Result<KernelCode> read_kernel_code(const KernelInfo& kernel, const PhysicalMemory& memory,
                                    std::span<const CoveredBytes> covered = {},
                                    std::optional<TextRange> only = std::nullopt);

} // namespace shadowmon
