// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/page_tables.h"

#include "abi/layout.h"

#include <cassert>
#include <cstring>
#include <map>

namespace shadowmon {

namespace {

enum PageTableBits : uint64_t {
    pte_present = 1u << 0,
    pte_writable = 1u << 1,
    pte_accessed = 1u << 5,
    pte_dirty = 1u << 6,
    pte_global = 1u << 8,
    pte_no_execute = uint64_t{1} << 63,
};

static_assert((SM_COMPARTMENT_GVA >> 30 & 511) == pud_index);
static_assert(SM_COMPARTMENT_SIZE == uint64_t{1} << 30);

void put(std::span<std::byte> region, uint32_t page, uint64_t index, uint64_t entry) {
    size_t at = size_t{page} * SM_PAGE_SIZE + index * sizeof(entry);
    assert(at + sizeof(entry) <= region.size());
    std::memcpy(region.data() + at, &entry, sizeof(entry));
}

} // namespace

void write_page_tables(const Layout& layout, Gpa region_gpa, std::span<std::byte> region) {
    assert(region.size() == size_t{layout.pages()} * SM_PAGE_SIZE);
    std::map<uint64_t, uint32_t> tables; // by bits 21 and up of the offset
    uint32_t next = 1;
    for (const Area& area : layout.areas()) {
        if (area.kind == AreaKind::page_tables)
            continue;
        for (uint32_t i = 0; i < area.pages; i++) {
            uint64_t offset = area.offset + uint64_t{i} * SM_PAGE_SIZE;
            auto [table, fresh] = tables.try_emplace(offset >> 21, next);
            if (fresh) {
                assert(next < layout.table_pages());
                uint64_t gpa = (region_gpa + uint64_t{next} * SM_PAGE_SIZE).value;
                put(region, 0, offset >> 21, gpa | pte_present | pte_writable | pte_accessed);
                next++;
            }
            uint64_t entry = (region_gpa + uint64_t{area.first_page + i} * SM_PAGE_SIZE).value |
                             pte_present | pte_accessed | pte_dirty | pte_global;
            if (area.writable)
                entry |= pte_writable;
            if (!area.executable)
                entry |= pte_no_execute;
            put(region, table->second, offset >> 12 & 511, entry);
        }
    }
}

uint64_t pud_entry(Gpa region_gpa) {
    return region_gpa.value | pte_present | pte_writable | pte_accessed;
}

} // namespace shadowmon
