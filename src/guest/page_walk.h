// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/memory.h"

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace shadowmon {

/// What all page-table levels together allow.
struct PageRights {
    bool writable = false;
    bool user = false;
    bool executable = false;

    bool operator==(const PageRights&) const = default;
};

/// Where a guest-virtual address leads.
struct Translation {
    Gpa gpa;            ///< of the very byte asked for
    uint64_t page_size; ///< 4 KiB, 2 MiB or 1 GiB
    unsigned level;     ///< of the leaf entry: 1 (4 KiB) to 3 (1 GiB)
    PageRights rights;
};

/// One run of mapped guest-virtual memory: physically contiguous, rights the same.
struct MappedRange {
    Gva start;
    Gpa gpa;
    uint64_t size;
    PageRights rights;

    Gva end() const { return start + size; }
    bool operator==(const MappedRange&) const = default;
};

/// The page tables below one root, read through PhysicalMemory; runs on the host.
///
/// A few table pages are kept, so that neighbouring walks cost no reads; drop()
/// forgets them, which the caller does whenever it wants to see the guest's
/// changes. Not thread-safe. The tables are the guest's: entries may lead outside
/// RAM, in circles or to reserved bits; all of that is an error that names level
/// and entry, never more than a bounded amount of reading.
class PageTables {
  public:
    /// levels is 4 or 5; the low 12 bits of root (PCID, flags) are ignored, and so
    /// are bits above 51.
    PageTables(const PhysicalMemory& memory, Gpa root, unsigned levels);

    /// Error codes: ENOENT when an entry on the way is not present, EINVAL when the
    /// address is not canonical or an entry is malformed, EFAULT when a table lies
    /// outside RAM.
    Result<Translation> walk(Gva gva) const;

    /// Where the entry of this level (1 to levels()) is that a walk of the address comes to,
    /// whatever it holds. Error codes as above, EINVAL when a large page ends the walk before.
    Result<Gpa> entry_of(Gva gva, unsigned level) const;

    /// Calls `visit` for the mapped runs in [start, start + size) in ascending order,
    /// merged as far as they are contiguous in both address spaces and equal in
    /// rights. What is behind a malformed entry or a table outside RAM counts as not
    /// mapped; a leaf may lead anywhere. Stops early when `visit` returns false. Fails with ELOOP
    /// once more than max_tables table pages were looked at.
    Status for_each_mapped(Gva start, uint64_t size,
                           const std::function<bool(const MappedRange&)>& visit,
                           uint64_t max_tables) const;

    /// The lowest page that is mapped in [start, start + size), if any. Fails as above.
    Result<std::optional<MappedRange>> first_mapped(Gva start, uint64_t size,
                                                    uint64_t max_tables) const;

    bool canonical(Gva gva) const;
    Gpa root() const { return root_; }
    unsigned levels() const { return levels_; }
    const PhysicalMemory& memory() const { return *memory_; }

    /// Forgets the table pages kept so far.
    void drop() const;

  private:
    using Table = std::array<uint64_t, 512>;
    struct Kept {
        Gpa gpa;
        uint64_t used = 0; ///< clock of the last use, 0: empty
        Table entries;
    };
    struct Scan;

    Status check_canonical(Gva gva) const;
    Result<const Table*> table(Gpa gpa) const;
    /// The entry for the address in the table at `table`: present and well formed.
    Result<uint64_t> present_entry(Gva gva, Gpa table, unsigned level) const;
    Status scan_table(Scan& scan, Gpa table, unsigned level, uint64_t base,
                      PageRights rights) const;

    const PhysicalMemory* memory_;
    Gpa root_;
    unsigned levels_;
    mutable std::vector<Kept> kept_;
    mutable uint64_t clock_ = 0;
};

/// Guest-virtual memory of one address space: PhysicalMemory behind a walk.
class VirtualMemory {
  public:
    explicit VirtualMemory(PageTables tables) : tables_(std::move(tables)) {}

    /// Fills `out` or fails naming the address; physically contiguous pages are
    /// fetched by one read. Error codes are those of PageTables::walk.
    Status read(Gva gva, std::span<std::byte> out) const;

    template <typename T> Result<T> read_value(Gva gva) const {
        static_assert(std::is_trivially_copyable_v<T>);
        T value;
        SM_TRY(read(gva, std::as_writable_bytes(std::span<T, 1>(&value, 1))));
        return value;
    }

    /// A zero-terminated string of at most `limit` bytes, without the zero.
    Result<std::string> read_string(Gva gva, size_t limit) const;

    const PageTables& tables() const { return tables_; }
    void drop() const { tables_.drop(); }

  private:
    PageTables tables_;
};

} // namespace shadowmon
