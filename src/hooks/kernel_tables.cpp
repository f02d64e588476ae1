// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/kernel_tables.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <optional>

namespace shadowmon {

namespace {

constexpr uint64_t ud2_size = 2;
constexpr std::byte breakpoint{0xcc};
constexpr std::array ftrace_nop{std::byte{0x0f}, std::byte{0x1f}, std::byte{0x44}, std::byte{0},
                                std::byte{0}};
constexpr uint32_t exception_entry_size = 12;
constexpr uint32_t bug_entry_size = 12;
constexpr uint32_t jump_entry_size = 16;
constexpr uint32_t static_call_entry_size = 8;

/// What type information may say about the size of an entry: the two addresses that are read,
/// and no more than any kernel has had.
constexpr uint32_t least_entry = 2 * sizeof(int32_t);
constexpr uint32_t largest_entry = 64;

/// Bounds on ftrace's list, which a hostile guest could make endless.
constexpr unsigned max_ftrace_pages = 100'000;
constexpr size_t max_ftrace_records = 1'000'000;

/// A table, between two symbols or a module's, whose addresses are relative to where they are
/// written.
class Table {
  public:
    static Result<Table> read(const VirtualMemory& memory, const ModuleTable& where,
                              const char* name, uint32_t entry_size) {
        Table table;
        table.entry_size_ = entry_size;
        if (where.count == 0)
            return table;
        if (entry_size < least_entry || entry_size > largest_entry)
            return failf("{}: entries of {} bytes", name, entry_size);
        table.start_ = where.first;
        table.bytes_.resize(where.count * entry_size);
        if (auto status = memory.read(where.first, table.bytes_); !status)
            return fail(status.error().in(name));
        return table;
    }

    static Result<Table> read(const KernelInfo& kernel, const PhysicalMemory& memory,
                              const std::string& name, uint32_t entry_size) {
        Table table;
        table.entry_size_ = entry_size;
        std::string first = "__start_" + name;
        if (!kernel.symbols.find(first))
            return table;
        auto start = kernel.symbols.address(first);
        auto stop = kernel.symbols.address("__stop_" + name);
        if (!start || !stop)
            return fail((start ? stop : start).error().in(name));
        if (!kernel.image.contains(*start) || *stop < *start || *stop > kernel.image.end())
            return failf("{}: {:#x}..{:#x} is outside the kernel image", name, start->value,
                         stop->value);
        if (entry_size < least_entry || entry_size > largest_entry ||
            (*stop - *start) % entry_size != 0)
            return failf("{}: {:#x} bytes are no whole number of entries of {}", name,
                         *stop - *start, entry_size);
        auto gpa = kernel.to_gpa(*start);
        if (!gpa)
            return fail(gpa.error().in(name));
        table.start_ = *start;
        table.bytes_.resize(*stop - *start);
        if (auto status = memory.read(*gpa, table.bytes_); !status)
            return fail(status.error().in(name));
        return table;
    }

    size_t size() const { return bytes_.size() / entry_size_; }

    /// The address that a 32-bit field of an entry names.
    Gva address(size_t entry, uint32_t offset) const {
        size_t at = entry * entry_size_ + offset;
        int32_t distance = 0;
        std::memcpy(&distance, bytes_.data() + at, sizeof(distance));
        return start_ + at + static_cast<uint64_t>(int64_t{distance});
    }

  private:
    Gva start_;
    uint32_t entry_size_ = 1;
    std::vector<std::byte> bytes_;
};

uint32_t size_of(const KernelInfo& kernel, const char* name, uint32_t otherwise) {
    auto size = kernel.btf.size(name);
    return size ? *size : otherwise;
}

/// struct ftrace_page, struct dyn_ftrace.
struct FtraceLayout {
    uint32_t next, records, index; ///< of the page
    uint32_t ip, size;             ///< of the record

    static std::optional<FtraceLayout> of(const Btf& btf) {
        auto next = btf.offset("ftrace_page", "next");
        auto records = btf.offset("ftrace_page", "records");
        auto index = btf.offset("ftrace_page", "index");
        auto ip = btf.offset("dyn_ftrace", "ip");
        auto size = btf.size("dyn_ftrace");
        if (!next || !records || !index || !ip || !size || *size < sizeof(uint64_t) ||
            *size > largest_entry)
            return std::nullopt;
        return FtraceLayout{*next, *records, *index, *ip, *size};
    }
};

/// The places of ftrace: those of modules, too. Nothing if the list cannot be followed to its
/// end, as when the kernel changes it meanwhile.
std::vector<Gva> read_ftrace(const KernelInfo& kernel, const PhysicalMemory& memory) {
    auto head = kernel.symbols.address("ftrace_pages_start");
    auto layout = FtraceLayout::of(kernel.btf);
    if (!head || !layout)
        return {};
    VirtualMemory virt(kernel.image.tables(memory));
    std::vector<Gva> places;
    auto page = virt.read_value<uint64_t>(*head);
    for (unsigned n = 0; page && *page != 0; n++) {
        auto records = virt.read_value<uint64_t>(Gva(*page) + layout->records);
        auto count = virt.read_value<int32_t>(Gva(*page) + layout->index);
        if (n == max_ftrace_pages || !records || !count || *count < 0 ||
            places.size() + static_cast<uint32_t>(*count) > max_ftrace_records)
            return {};
        std::vector<std::byte> bytes(size_t{layout->size} * static_cast<uint32_t>(*count));
        if (!virt.read(Gva(*records), bytes))
            return {};
        for (size_t at = layout->ip; at + sizeof(uint64_t) <= bytes.size(); at += layout->size) {
            uint64_t ip = 0;
            std::memcpy(&ip, bytes.data() + at, sizeof(ip));
            places.emplace_back(ip);
        }
        page = virt.read_value<uint64_t>(Gva(*page) + layout->next);
    }
    return page ? places : std::vector<Gva>();
}

using Visit = std::function<void(const Table&, size_t)>;
using EachEntry =
    std::function<Status(const std::string& table, uint32_t entry_size, const Visit&)>;

/// What the tables say, wherever `each` finds them.
Result<KernelTables> read_tables(const KernelInfo& kernel, const PhysicalMemory& memory,
                                 const EachEntry& each) {
    KernelTables out;
    SM_TRY(each("__ex_table", size_of(kernel, "exception_table_entry", exception_entry_size),
                [&](const Table& table, size_t i) {
                    out.may_fault.push_back(table.address(i, 0));
                    out.continued_at.push_back(table.address(i, 4));
                }));
    SM_TRY(each("__jump_table", jump_entry_size, [&](const Table& table, size_t i) {
        out.patched.push_back({table.address(i, 0), Refusal::static_key});
        out.continued_at.push_back(table.address(i, 4));
    }));
    SM_TRY(each("static_call_sites", static_call_entry_size, [&](const Table& table, size_t i) {
        out.patched.push_back({table.address(i, 0), Refusal::static_call});
    }));
    SM_TRY(each("__bug_table", size_of(kernel, "bug_entry", bug_entry_size),
                [&](const Table& table, size_t i) {
                    out.continued_at.push_back(table.address(i, 0) + ud2_size);
                }));
    for (Gva place : read_ftrace(kernel, memory)) {
        out.patched.push_back({place, Refusal::ftrace});
        out.ftrace_records++;
    }
    return out;
}

} // namespace

Result<KernelTables> read_kernel_tables(const KernelInfo& kernel, const PhysicalMemory& memory) {
    auto each = [&](const std::string& name, uint32_t entry_size, const Visit& visit) -> Status {
        auto table = Table::read(kernel, memory, name, entry_size);
        if (!table)
            return fail(table.error());
        for (size_t i = 0; i < table->size(); i++)
            visit(*table, i);
        return {};
    };
    return read_tables(kernel, memory, each);
}

Result<KernelTables> read_module_tables(const KernelInfo& kernel, const PhysicalMemory& memory,
                                        const GuestModule& module) {
    VirtualMemory virt(kernel.image.tables(memory));
    auto each = [&](const std::string& name, uint32_t entry_size, const Visit& visit) -> Status {
        const ModuleTable& where = name == "__ex_table"          ? module.exceptions
                                   : name == "__jump_table"      ? module.jump_labels
                                   : name == "static_call_sites" ? module.static_calls
                                                                 : module.bugs;
        auto table = Table::read(virt, where, name.c_str(), entry_size);
        if (!table)
            return fail(table.error());
        for (size_t i = 0; i < table->size(); i++)
            visit(*table, i);
        return {};
    };
    auto out = read_tables(kernel, memory, each);
    if (!out)
        return out;
    // Also where the list of all places cannot be followed.
    std::vector<uint64_t> places(module.ftrace.count);
    if (auto status = virt.read(module.ftrace.first, std::as_writable_bytes(std::span(places)));
        !places.empty() && !status)
        return fail(status.error().in("__mcount_loc"));
    for (uint64_t place : places)
        out->patched.push_back({Gva(place), Refusal::ftrace});
    std::erase_if(out->patched,
                  [&](const PatchedSite& site) { return !module.text.contains(site.at); });
    return out;
}

void settle_ftrace_places(const std::vector<PatchedSite>& patched, Gva start,
                          std::span<std::byte> text) {
    for (const PatchedSite& site : patched) {
        if (site.why != Refusal::ftrace || site.at < start || site.at - start >= text.size())
            continue;
        auto place = text.subspan(site.at - start);
        if (place.size() >= ftrace_nop.size() && place[0] == breakpoint)
            std::copy(ftrace_nop.begin(), ftrace_nop.end(), place.begin());
    }
}

} // namespace shadowmon
