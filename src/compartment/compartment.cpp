// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/compartment.h"

#include "payload/symbols.h"
#include "src/compartment/hook_table.h"
#include "src/compartment/page_tables.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>

namespace shadowmon {

namespace {

std::span<std::byte> bytes_of(const Area& area, std::span<std::byte> region) {
    return region.subspan(size_t{area.first_page} * SM_PAGE_SIZE,
                          size_t{area.pages} * SM_PAGE_SIZE);
}

Status copy(std::span<const std::byte> from, const Area& area, std::span<std::byte> region) {
    auto to = bytes_of(area, region);
    if (from.size() > to.size())
        return failf("{} bytes do not fit in {} pages of the compartment", from.size(), area.pages);
    std::copy(from.begin(), from.end(), to.begin());
    return {};
}

/// Makes the gate's jump for foreign INT 20s lead to the guest's own handler.
Status chain_to(Gva handler, const PayloadImage& payload, std::span<std::byte> gate) {
    auto jump = payload.symbol(SM_SYMBOL_GATE_CHAIN_JUMP);
    if (!jump)
        return fail(jump.error());
    uint64_t at = *jump - payload.gate().start;
    if (at + 5 > gate.size() || gate[at] != std::byte{0xe9})
        return failf("the payload's {} is no 5-byte jump", SM_SYMBOL_GATE_CHAIN_JUMP);
    auto distance = static_cast<int64_t>(handler.value - (*jump + 5).value);
    if (distance < std::numeric_limits<int32_t>::min() ||
        distance > std::numeric_limits<int32_t>::max())
        return failf("the guest's handler of vector {} at {:#x} is out of reach of the gate",
                     gate_vector, handler.value);
    auto rel = static_cast<int32_t>(distance);
    std::memcpy(gate.data() + at + 1, &rel, sizeof(rel));
    return {};
}

} // namespace

std::span<sm_hook> hooks_in(const Layout& layout, std::span<std::byte> region) {
    auto bytes = bytes_of(layout.area(AreaKind::hooks), region);
    return {reinterpret_cast<sm_hook*>(bytes.data()), layout.geometry().hook_entries()};
}

std::span<std::byte> displaced_in(const Layout& layout, std::span<std::byte> region) {
    return bytes_of(layout.area(AreaKind::displaced), region)
        .first(layout.geometry().displaced_size());
}

std::span<sm_limit> limits_in(const Layout& layout, std::span<std::byte> region) {
    auto bytes = bytes_of(layout.area(AreaKind::limits), region);
    return {reinterpret_cast<sm_limit*>(bytes.data()), layout.geometry().capacity};
}

std::span<const uint64_t> counters_in(const Layout& layout, std::span<std::byte> region,
                                      uint32_t index) {
    auto bytes = bytes_of(layout.area(AreaKind::counters, index), region);
    return {reinterpret_cast<const uint64_t*>(bytes.data()),
            size_t{SM_COUNTERS} * layout.geometry().capacity};
}

Status fill_region(const Layout& layout, const PayloadImage& payload,
                   const CompartmentContents& contents, Gpa region_gpa,
                   std::span<std::byte> region) {
    const Geometry& geometry = layout.geometry();
    if (region.size() != size_t{layout.pages()} * SM_PAGE_SIZE)
        return failf("the region has {} bytes, its layout {} pages", region.size(), layout.pages());
    write_page_tables(layout, region_gpa, region);

    const Area& gate = layout.area(AreaKind::gate);
    SM_TRY(copy(payload.gate().bytes, gate, region));
    SM_TRY(copy(payload.text().bytes, layout.area(AreaKind::text), region));
    SM_TRY(copy(payload.rodata().bytes, layout.area(AreaKind::rodata), region));
    SM_TRY(copy(payload.data().bytes, layout.area(AreaKind::data), region));
    if (contents.config.idt20_handler)
        SM_TRY(chain_to(Gva(contents.config.idt20_handler), payload, bytes_of(gate, region)));

    // Executable pages hold INT3 where they hold no code of ours.
    auto displaced = bytes_of(layout.area(AreaKind::displaced), region);
    std::fill(displaced.begin(), displaced.end(), std::byte{0xcc});
    SM_TRY(copy(contents.displaced, layout.area(AreaKind::displaced), region));

    sm_config config = contents.config;
    config.magic = SM_CONFIG_MAGIC;
    config.version = SM_ABI_VERSION;
    config.slots = geometry.slots;
    config.ring_size = geometry.ring_size;
    config.hook_mask = geometry.hook_entries() - 1;
    config.hook_capacity = geometry.capacity;
    sm_derive(&config);
    std::memcpy(bytes_of(layout.area(AreaKind::config), region).data(), &config, sizeof(config));

    auto table = HookTable::make(hooks_in(layout, region), geometry.capacity);
    if (!table)
        return fail(table.error());
    for (const sm_hook& hook : contents.hooks)
        SM_TRY(table->insert(hook));

    for (uint32_t i = 0; i < geometry.slots; i++) {
        sm_slot* slot = slot_in(layout, region, i);
        slot->index = i;
        slot->ring = SM_COMPARTMENT_GVA + layout.area(AreaKind::ring, i).offset;
        // Not the first claim, which meets guest pages that are not mapped yet.
        slot->next_sample = SM_SAMPLE_PERIOD - 1;
    }
    return {};
}

sm_ring* ring_in(const Layout& layout, std::span<std::byte> region, uint32_t index) {
    return reinterpret_cast<sm_ring*>(bytes_of(layout.area(AreaKind::ring, index), region).data());
}

std::span<const std::byte> ring_data_in(const Layout& layout, std::span<std::byte> region,
                                        uint32_t index) {
    return bytes_of(layout.area(AreaKind::ring, index), region)
        .subspan(SM_RING_DATA_OFFSET, layout.geometry().ring_size);
}

sm_slot* slot_in(const Layout& layout, std::span<std::byte> region, uint32_t index) {
    return reinterpret_cast<sm_slot*>(bytes_of(layout.area(AreaKind::slot, index), region).data());
}

bool in_compartment(Gva gva) {
    return gva.value >= SM_COMPARTMENT_GVA && gva.value - SM_COMPARTMENT_GVA < SM_COMPARTMENT_SIZE;
}

std::optional<uint32_t> slot_of_stack(Gva rsp) {
    const uint64_t offset = rsp.value - SM_COMPARTMENT_GVA - SM_SLOTS_OFFSET;
    const uint64_t slot = offset >> SM_SLOT_STRIDE_SHIFT;
    const uint64_t within = offset % SM_SLOT_STRIDE;
    // An empty stack's pointer is the address behind it.
    if (slot >= SM_MAX_SLOTS || within < SM_SLOT_STACK_OFFSET || within > SM_SLOT_STACK_TOP)
        return std::nullopt;
    return static_cast<uint32_t>(slot);
}

} // namespace shadowmon
