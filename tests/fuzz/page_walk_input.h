// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>

namespace shadowmon::test {

/// What fuzz_page_walk makes of its input, and the seeds are written as.
struct CpuInput {
    uint64_t cr3, lstar, gva, span;
    uint64_t la57;
};

/// One 8-byte word of guest memory.
struct EntryInput {
    uint64_t slot;
    uint64_t value;
};

constexpr uint64_t FuzzRam = 8 << 20; ///< room for an image of 2 MiB pages

} // namespace shadowmon::test
