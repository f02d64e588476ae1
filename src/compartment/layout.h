// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/kvm_views.h"
#include "src/base/address.h"
#include "src/base/result.h"

#include <cstdint>
#include <vector>

namespace shadowmon {

/// Hooks that a compartment has room for when the user may add some to a running trace.
inline constexpr uint32_t default_hook_capacity = 2048;

/// Sizes that the host chooses for one compartment.
struct Geometry {
    uint32_t slots = 4;            ///< power of two, at most SM_MAX_SLOTS
    uint32_t ring_size = 1u << 20; ///< data bytes per ring, power of two
    uint32_t capacity = 64;        ///< hooks at a time, at most SM_MAX_HOOKS; ids are below it
    uint32_t text_size = 0, rodata_size = 0, data_size = 0; ///< bytes, of the payload

    uint32_t hook_entries() const;   ///< of the hook table, a power of two
    uint32_t displaced_size() const; ///< bytes of displaced instructions
    uint32_t counters_size() const;  ///< bytes of one slot's counters
};

enum class AreaKind {
    page_tables,
    gate,
    displaced,
    text,
    rodata,
    config,
    hooks,
    data,
    limits,
    slot,
    stack,
    ring,
    counters
};

/// Consecutive pages of the region with one purpose and one set of rights.
struct Area {
    AreaKind kind;
    uint32_t index;      ///< of the slot, ring or counters, else 0
    uint64_t offset;     ///< from SM_COMPARTMENT_GVA; page tables are mapped nowhere
    uint32_t first_page; ///< in the region
    uint32_t pages;
    uint8_t main; ///< KVM_VIEWS_R/W/X
    uint8_t shadow;
    bool writable; ///< in the guest's page tables
    bool executable;
};

/// Which page of the hidden region is what, and where in the compartment it is mapped.
/// The table of areas in abi/layout.h with sizes put in. Plain data: nothing is
/// written here, the host decides with it and fills the region by it.
class Layout {
  public:
    static Result<Layout> make(const Geometry& geometry);

    const Geometry& geometry() const { return geometry_; }
    const std::vector<Area>& areas() const { return areas_; }
    uint32_t pages() const { return pages_; }
    uint32_t table_pages() const { return areas_.front().pages; }

    /// The area of a kind; `index` for slots, stacks, rings and counters.
    const Area& area(AreaKind kind, uint32_t index = 0) const;

    /// Rights of the region's pages in both views, few calls for many pages.
    std::vector<kvm_views_protect> protections(Gpa region) const;

  private:
    Layout() = default;
    void add(AreaKind kind, uint32_t index, uint64_t offset, uint64_t bytes);

    Geometry geometry_;
    std::vector<Area> areas_;
    uint32_t pages_ = 0;
};

} // namespace shadowmon
