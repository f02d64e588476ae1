// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/layout.h"

#include "abi/config.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <set>

namespace shadowmon {

namespace {

constexpr uint8_t r = KVM_VIEWS_R;
constexpr uint8_t w = KVM_VIEWS_W;
constexpr uint8_t x = KVM_VIEWS_X;
constexpr unsigned table_shift = 21; // one page of page-table entries maps 2 MiB

struct Rights {
    uint8_t main, shadow;
    bool writable, executable;
};

/// The table of abi/layout.h.
Rights rights_of(AreaKind kind) {
    switch (kind) {
    case AreaKind::page_tables:
        return {r, r, false, false};
    case AreaKind::gate:
        return {x, r | x, false, true};
    case AreaKind::displaced:
        return {x, 0, false, true};
    case AreaKind::text:
        return {0, r | x, false, true};
    case AreaKind::rodata:
    case AreaKind::config:
    case AreaKind::hooks:
        return {0, r, false, false};
    case AreaKind::data:
    case AreaKind::limits:
    case AreaKind::slot:
    case AreaKind::stack:
    case AreaKind::ring:
    case AreaKind::counters:
        return {0, r | w, true, false};
    }
    return {};
}

uint32_t pages_of(uint64_t bytes) {
    return static_cast<uint32_t>((bytes + SM_PAGE_SIZE - 1) / SM_PAGE_SIZE);
}

} // namespace

uint32_t Geometry::hook_entries() const {
    constexpr uint32_t page = SM_PAGE_SIZE / sizeof(sm_hook);
    return std::bit_ceil(std::max(page, 2 * capacity));
}

uint32_t Geometry::displaced_size() const { return capacity * SM_DISPLACED_PER_HOOK; }

uint32_t Geometry::counters_size() const {
    return capacity * SM_COUNTERS * static_cast<uint32_t>(sizeof(uint64_t));
}

void Layout::add(AreaKind kind, uint32_t index, uint64_t offset, uint64_t bytes) {
    Rights rights = rights_of(kind);
    uint32_t pages = pages_of(bytes);
    areas_.push_back({kind, index, offset, pages_, pages, rights.main, rights.shadow,
                      rights.writable, rights.executable});
    pages_ += pages;
}

Result<Layout> Layout::make(const Geometry& g) {
    if (!std::has_single_bit(g.slots) || g.slots > SM_MAX_SLOTS)
        return failf("{} slots: a power of two up to {} is possible", g.slots, SM_MAX_SLOTS);
    if (!std::has_single_bit(g.ring_size) || g.ring_size < SM_PAGE_SIZE ||
        g.ring_size > SM_RING_MAX_DATA)
        return failf("a ring of {} bytes: a power of two from {} to {} is possible", g.ring_size,
                     SM_PAGE_SIZE, SM_RING_MAX_DATA);
    if (g.capacity == 0 || g.capacity > SM_MAX_HOOKS)
        return failf("room for {} hooks: from 1 to {} are possible", g.capacity, SM_MAX_HOOKS);
    if (g.text_size > SM_TEXT_MAX_SIZE || g.rodata_size > SM_RODATA_MAX_SIZE ||
        g.data_size > SM_DATA_MAX_SIZE)
        return failf("the payload is too big for the compartment");

    Layout layout;
    layout.geometry_ = g;
    layout.add(AreaKind::page_tables, 0, 0, 0); // counted below, once the areas are known
    layout.add(AreaKind::gate, 0, SM_GATE_OFFSET, SM_PAGE_SIZE);
    layout.add(AreaKind::displaced, 0, SM_DISPLACED_OFFSET, g.displaced_size());
    layout.add(AreaKind::text, 0, SM_TEXT_OFFSET, g.text_size);
    layout.add(AreaKind::rodata, 0, SM_RODATA_OFFSET, g.rodata_size);
    layout.add(AreaKind::config, 0, SM_CONFIG_OFFSET, SM_PAGE_SIZE);
    layout.add(AreaKind::hooks, 0, SM_HOOKS_OFFSET, g.hook_entries() * sizeof(sm_hook));
    layout.add(AreaKind::data, 0, SM_DATA_OFFSET, g.data_size);
    layout.add(AreaKind::limits, 0, SM_LIMITS_OFFSET, g.capacity * sizeof(sm_limit));
    for (uint32_t i = 0; i < g.slots; i++) {
        uint64_t slot = SM_SLOTS_OFFSET + uint64_t{i} * SM_SLOT_STRIDE;
        layout.add(AreaKind::slot, i, slot, sizeof(sm_slot));
        layout.add(AreaKind::stack, i, slot + SM_SLOT_STACK_OFFSET, SM_SLOT_STACK_SIZE);
    }
    for (uint32_t i = 0; i < g.slots; i++) {
        uint64_t ring = SM_RINGS_OFFSET + uint64_t{i} * SM_RING_STRIDE;
        layout.add(AreaKind::ring, i, ring, SM_RING_DATA_OFFSET + uint64_t{g.ring_size});
        layout.add(AreaKind::counters, i, ring + SM_RING_COUNTERS_OFFSET, g.counters_size());
    }

    std::set<uint64_t> tables;
    for (const Area& area : layout.areas_)
        for (uint32_t i = 0; i < area.pages; i++)
            tables.insert((area.offset + uint64_t{i} * SM_PAGE_SIZE) >> table_shift);
    uint32_t table_pages = 1 + static_cast<uint32_t>(tables.size());
    layout.areas_.front().pages = table_pages;
    for (size_t i = 1; i < layout.areas_.size(); i++)
        layout.areas_[i].first_page += table_pages;
    layout.pages_ += table_pages;
    if (layout.pages_ > KVM_VIEWS_MAX_REGION_PAGES)
        return failf("{} rings of {} bytes need {} pages, {} are possible: choose smaller rings",
                     g.slots, g.ring_size, layout.pages_, KVM_VIEWS_MAX_REGION_PAGES);
    return layout;
}

const Area& Layout::area(AreaKind kind, uint32_t index) const {
    for (const Area& area : areas_)
        if (area.kind == kind && area.index == index)
            return area;
    assert(!"every area is laid out");
    return areas_.front();
}

std::vector<kvm_views_protect> Layout::protections(Gpa region) const {
    std::vector<kvm_views_protect> ranges;
    for (uint8_t view : {KVM_VIEWS_MAIN, KVM_VIEWS_SHADOW}) {
        const kvm_views_protect* last = nullptr;
        for (const Area& area : areas_) {
            uint8_t rights = view == KVM_VIEWS_MAIN ? area.main : area.shadow;
            uint64_t gpa = (region + uint64_t{area.first_page} * SM_PAGE_SIZE).value;
            if (area.pages == 0 || rights == 0)
                continue;
            if (last && last->rights == rights &&
                last->gpa + uint64_t{last->pages} * SM_PAGE_SIZE == gpa) {
                ranges.back().pages += area.pages;
                last = &ranges.back();
                continue;
            }
            kvm_views_protect range{};
            range.gpa = gpa;
            range.pages = area.pages;
            range.view = view;
            range.rights = rights;
            ranges.push_back(range);
            last = &ranges.back();
        }
    }
    return ranges;
}

} // namespace shadowmon
