// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/compartment/layout.h"

#include <span>

namespace shadowmon {

/// Writes the guest page tables of the compartment into the region's first pages:
/// one page of PMD entries, then the pages of PTEs. `region` is the whole region as
/// mapped here. Accessed and dirty bits are set in advance, because the main view
/// must not write these pages.
void write_page_tables(const Layout& layout, Gpa region_gpa, std::span<std::byte> region);

/// The PUD entry that leads to them: index 509 of the kernel's last level-3 table.
uint64_t pud_entry(Gpa region_gpa);

/// Where that entry is in the table.
inline constexpr uint64_t pud_index = 509;

} // namespace shadowmon
