// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/memory.h"
#include "src/vm/views.h"

namespace shadowmon {

/// The memory of a running VM, read through its views fd. Borrows the Views.
/// The VM runs on, so two reads need not agree with each other.
class LiveMemory final : public PhysicalMemory {
  public:
    /// Takes the memory slots as they are now.
    [[nodiscard]] static Result<LiveMemory> of(const Views& views);

    Status read(Gpa gpa, std::span<std::byte> out) const override;
    const std::vector<RamRange>& ram() const override { return ram_; }

    /// Every slot, ROM too: where nothing else may be placed.
    const std::vector<RamRange>& occupied() const { return occupied_; }

  private:
    LiveMemory(const Views& views, std::vector<RamRange> ram, std::vector<RamRange> occupied)
        : views_(&views), ram_(std::move(ram)), occupied_(std::move(occupied)) {}

    const Views* views_;
    std::vector<RamRange> ram_;
    std::vector<RamRange> occupied_;
};

/// Sorts ranges and joins those that touch.
std::vector<RamRange> join_ranges(std::vector<RamRange> ranges);

} // namespace shadowmon
