// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"

#include <cstddef>
#include <span>
#include <vector>

namespace shadowmon {

/// A range of guest-physical RAM.
struct RamRange {
    Gpa start;
    uint64_t size; ///< bytes
};

/// Guest-physical memory as seen from the host process. What is read is whatever
/// the guest put there: hostile, and changing while it is read. The live VM and
/// the test's files implement it.
class PhysicalMemory {
  public:
    virtual ~PhysicalMemory() = default;

    /// Fills `out` or fails naming the address; nothing partial counts.
    virtual Status read(Gpa gpa, std::span<std::byte> out) const = 0;

    /// RAM in ascending order, not overlapping.
    virtual const std::vector<RamRange>& ram() const = 0;
};

} // namespace shadowmon
