// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/page_walk.h"

#include <algorithm>
#include <cstring>

namespace shadowmon {

namespace {

constexpr uint64_t entry_present = 1u << 0;
constexpr uint64_t entry_writable = 1u << 1;
constexpr uint64_t entry_user = 1u << 2;
constexpr uint64_t entry_large = 1u << 7;
constexpr uint64_t entry_no_execute = uint64_t{1} << 63;
constexpr uint64_t address_mask = 0x000ffffffffff000;
constexpr size_t kept_tables = 16;

unsigned shift_of(unsigned level) { return 12 + 9 * (level - 1); }

unsigned index_of(Gva gva, unsigned level) { return (gva.value >> shift_of(level)) & 511; }

const char* name_of(unsigned level) {
    static const char* const names[] = {"PTE", "PMD", "PUD", "P4D", "PGD"};
    return names[level - 1];
}

/// Bits between the PAT bit and the address of a large page; they must be zero.
uint64_t reserved_of_leaf(unsigned level) {
    return level == 1 ? 0 : ((uint64_t{1} << shift_of(level)) - 1) & ~uint64_t{0x1fff};
}

bool is_leaf(uint64_t entry, unsigned level) { return level == 1 || (entry & entry_large); }

bool malformed(uint64_t entry, unsigned level) {
    if (level > 3)
        return entry & entry_large;
    return is_leaf(entry, level) && (entry & reserved_of_leaf(level));
}

PageRights combine(PageRights rights, uint64_t entry) {
    return {rights.writable && (entry & entry_writable), rights.user && (entry & entry_user),
            rights.executable && !(entry & entry_no_execute)};
}

Gpa leaf_address(uint64_t entry, unsigned level) {
    return Gpa(entry & address_mask & ~((uint64_t{1} << shift_of(level)) - 1));
}

} // namespace

PageTables::PageTables(const PhysicalMemory& memory, Gpa root, unsigned levels)
    : memory_(&memory), root_(root.value & address_mask), levels_(levels == 5 ? 5 : 4) {}

bool PageTables::canonical(Gva gva) const {
    int unused = 64 - static_cast<int>(shift_of(levels_) + 9);
    auto extended = static_cast<int64_t>(gva.value << unused) >> unused;
    return static_cast<uint64_t>(extended) == gva.value;
}

void PageTables::drop() const { kept_.clear(); }

Result<const PageTables::Table*> PageTables::table(Gpa gpa) const {
    ++clock_;
    for (Kept& kept : kept_) {
        if (kept.gpa == gpa) {
            kept.used = clock_;
            return &kept.entries;
        }
    }
    Table entries;
    if (auto status = memory_->read(gpa, std::as_writable_bytes(std::span(entries))); !status)
        return fail(Error(status.error().message(), EFAULT));
    if (kept_.size() < kept_tables) {
        kept_.reserve(kept_tables);
        kept_.push_back({gpa, clock_, entries});
        return &kept_.back().entries;
    }
    auto oldest = std::min_element(kept_.begin(), kept_.end(),
                                   [](const Kept& a, const Kept& b) { return a.used < b.used; });
    *oldest = {gpa, clock_, entries};
    return &oldest->entries;
}

Status PageTables::check_canonical(Gva gva) const {
    if (canonical(gva))
        return {};
    return fail(
        Error(fmt::format("page walk: {:#x} is not canonical with {} levels", gva.value, levels_),
              EINVAL));
}

Result<uint64_t> PageTables::present_entry(Gva gva, Gpa at, unsigned level) const {
    unsigned index = index_of(gva, level);
    auto table = this->table(at);
    if (!table)
        return fail(Error(fmt::format("page walk of {:#x}: {} table at {:#x}: {}", gva.value,
                                      name_of(level), at.value, table.error().message()),
                          EFAULT));
    uint64_t entry = (**table)[index];
    auto error = [&](const char* what, int code) {
        return fail(
            Error(fmt::format("page walk of {:#x}: {} entry {} at {:#x} is {} ({:#x})", gva.value,
                              name_of(level), index, at.value + 8 * index, what, entry),
                  code));
    };
    if (!(entry & entry_present))
        return error("not present", ENOENT);
    if (malformed(entry, level))
        return error("malformed", EINVAL);
    return entry;
}

Result<Translation> PageTables::walk(Gva gva) const {
    SM_TRY(check_canonical(gva));
    PageRights rights{true, true, true};
    Gpa at = root_;
    for (unsigned level = levels_;; --level) {
        auto entry = present_entry(gva, at, level);
        if (!entry)
            return fail(entry.error());
        rights = combine(rights, *entry);
        if (is_leaf(*entry, level)) {
            uint64_t size = uint64_t{1} << shift_of(level);
            return Translation{leaf_address(*entry, level) + (gva.value & (size - 1)), size, level,
                               rights};
        }
        at = Gpa(*entry & address_mask);
    }
}

Result<Gpa> PageTables::entry_of(Gva gva, unsigned level) const {
    SM_TRY(check_canonical(gva));
    if (level < 1 || level > levels_)
        return fail(Error(fmt::format("page walk of {:#x}: there is no level {} of {}", gva.value,
                                      level, levels_),
                          EINVAL));
    Gpa at = root_;
    for (unsigned above = levels_; above > level; --above) {
        auto entry = present_entry(gva, at, above);
        if (!entry)
            return fail(entry.error());
        if (is_leaf(*entry, above))
            return fail(Error(fmt::format("page walk of {:#x}: a large page of level {} is there",
                                          gva.value, above),
                              EINVAL));
        at = Gpa(*entry & address_mask);
    }
    return at + uint64_t{8} * index_of(gva, level);
}

/// State of one for_each_mapped: what is left of the budget, and the run that is
/// still growing.
struct PageTables::Scan {
    uint64_t first; ///< addresses, inclusive on both sides: the span may end at 2^64
    uint64_t last;
    uint64_t tables_left;
    std::function<bool(const MappedRange&)> visit;
    bool first_only = false; ///< leave the first page in `pending` and stop
    std::optional<MappedRange> pending;
    bool stopped = false;

    void flush() {
        if (pending && !stopped)
            stopped = !visit(*pending);
        pending.reset();
    }

    void add(uint64_t base, uint64_t size, Gpa gpa, PageRights rights) {
        uint64_t start = std::max(base, first);
        uint64_t end = std::min(base + (size - 1), last);
        MappedRange range{Gva(start), gpa + (start - base), end - start + 1, rights};
        if (pending && pending->end() == range.start && pending->gpa + pending->size == range.gpa &&
            pending->rights == rights) {
            pending->size += range.size;
            return;
        }
        flush();
        pending = range;
        stopped = stopped || first_only;
    }
};

Status PageTables::scan_table(Scan& scan, Gpa at, unsigned level, uint64_t base,
                              PageRights rights) const {
    if (scan.tables_left-- == 0)
        return fail(Error(
            fmt::format("page walk: more page tables than expected, near {:#x}", base), ELOOP));
    auto kept = table(at);
    if (!kept)
        return {};
    const Table entries = **kept; // going down may replace the kept one
    uint64_t size = uint64_t{1} << shift_of(level);
    for (unsigned index = 0; index < 512 && !scan.stopped; ++index) {
        uint64_t start = base + index * size;
        if (level == levels_ && !canonical(Gva(start))) {
            // The upper half begins at the sign extension.
            unsigned bits = shift_of(levels_) + 9;
            start |= ~((uint64_t{1} << bits) - 1);
        }
        if (start > scan.last || start + (size - 1) < scan.first)
            continue;
        uint64_t entry = entries[index];
        if (!(entry & entry_present) || malformed(entry, level))
            continue;
        PageRights below = combine(rights, entry);
        if (is_leaf(entry, level))
            scan.add(start, size, leaf_address(entry, level), below);
        else
            SM_TRY(scan_table(scan, Gpa(entry & address_mask), level - 1, start, below));
    }
    return {};
}

namespace {

/// The last byte of a span, which may reach beyond the end of the address space.
uint64_t last_of(Gva start, uint64_t size) {
    uint64_t last = start.value + (size - 1);
    return last < start.value ? UINT64_MAX : last;
}

} // namespace

Status PageTables::for_each_mapped(Gva start, uint64_t size,
                                   const std::function<bool(const MappedRange&)>& visit,
                                   uint64_t max_tables) const {
    if (size == 0)
        return {};
    Scan scan{start.value, last_of(start, size), max_tables, visit, false, std::nullopt};
    SM_TRY(scan_table(scan, root_, levels_, 0, {true, true, true}));
    scan.flush();
    return {};
}

Result<std::optional<MappedRange>> PageTables::first_mapped(Gva start, uint64_t size,
                                                            uint64_t max_tables) const {
    if (size == 0)
        return std::nullopt;
    Scan scan{start.value, last_of(start, size), max_tables, {}, true, std::nullopt};
    SM_TRY(scan_table(scan, root_, levels_, 0, {true, true, true}));
    return scan.pending;
}

Status VirtualMemory::read(Gva gva, std::span<std::byte> out) const {
    while (!out.empty()) {
        auto first = tables_.walk(gva);
        if (!first)
            return fail(first.error());
        uint64_t run = first->page_size - (first->gpa.value & (first->page_size - 1));
        while (run < out.size()) {
            auto next = tables_.walk(gva + run);
            if (!next || next->gpa != first->gpa + run)
                break;
            run += next->page_size;
        }
        size_t size = std::min<uint64_t>(run, out.size());
        SM_TRY(tables_.memory().read(first->gpa, out.first(size)));
        out = out.subspan(size);
        gva = gva + size;
    }
    return {};
}

Result<std::string> VirtualMemory::read_string(Gva gva, size_t limit) const {
    std::string text;
    while (text.size() < limit) {
        // Page by page: what follows the string need not be mapped.
        char buffer[0x1000];
        size_t size = std::min<size_t>(0x1000 - gva.page_offset(), limit - text.size());
        SM_TRY(read(gva, std::as_writable_bytes(std::span(buffer, size))));
        size_t length = strnlen(buffer, size);
        text.append(buffer, length);
        if (length < size)
            return text;
        gva = gva + size;
    }
    return failf("string at {:#x}: no end within {} bytes", gva.value - text.size(), limit);
}

} // namespace shadowmon
