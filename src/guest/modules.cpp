// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/modules.h"

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <set>

namespace shadowmon {

namespace {

constexpr size_t max_modules = 4096;      ///< ten times what a desktop has loaded
constexpr uint64_t max_part = 64 << 20;   ///< the largest drivers have a tenth of it
constexpr uint64_t max_entries = 1 << 20; ///< of one table
constexpr uint64_t max_symbols = 1 << 18; ///< of one module
constexpr size_t max_symbol_name = 512;   ///< KSYM_NAME_LEN
constexpr size_t max_names = 32 << 20;    ///< of all symbols of a module together
constexpr uint32_t max_module_name = 128; ///< it has been 56 for long
constexpr uint64_t max_object = 1 << 16;
constexpr uint64_t page_size = 0x1000;
/// All modules are linked to be in reach of the kernel's text: the last 2 GiB.
constexpr Gva lowest_text(0xffffffff80000000);

constexpr uint32_t state_live = 0, state_coming = 1, state_going = 2; ///< enum module_state

/// A copy of one struct module.
class Object {
  public:
    explicit Object(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}

    /// Of 1 to 8 bytes.
    uint64_t number(uint32_t offset, uint32_t size) const {
        uint64_t value = 0;
        if (offset <= bytes_.size() && size <= bytes_.size() - offset && size <= sizeof(value))
            std::memcpy(&value, bytes_.data() + offset, size);
        return value;
    }
    Gva pointer(uint32_t offset) const { return Gva(number(offset, sizeof(uint64_t))); }
    std::string_view text(uint32_t offset, uint32_t size) const {
        if (offset > bytes_.size() || size > bytes_.size() - offset)
            return {};
        return {reinterpret_cast<const char*>(bytes_.data()) + offset, size};
    }

  private:
    std::vector<std::byte> bytes_;
};

/// Of the characters that a name may have none means anything to a shell, a pattern or a list.
bool is_name_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

Result<std::string> name_of(const Object& object, const ModuleLayout& layout) {
    std::string_view bytes = object.text(layout.name, layout.name_size);
    size_t size = bytes.find('\0');
    if (size == std::string_view::npos)
        return failf("its name does not end within {} bytes", layout.name_size);
    if (size == 0)
        return failf("it has no name");
    std::string_view name = bytes.substr(0, size);
    if (!std::all_of(name.begin(), name.end(), is_name_character))
        return failf("its name holds bytes that no module's name has");
    return std::string(name);
}

GuestModule::State state_of(uint64_t value) {
    switch (value) {
    case state_live:
        return GuestModule::State::live;
    case state_coming:
        return GuestModule::State::coming;
    case state_going:
        return GuestModule::State::going;
    default:
        return GuestModule::State::unformed;
    }
}

Result<ModuleRange> range_of(const Object& object, const ModuleLayout::Part& part) {
    ModuleRange range{object.pointer(part.base), object.number(part.size, part.size_size)};
    if (range.size == 0)
        return ModuleRange{};
    if (range.size > max_part || range.start.value % page_size || range.end() < range.start)
        return failf("its {} is said to be {:#x} bytes at {:#x}", part.text ? "code" : "memory",
                     range.size, range.start.value);
    range.size = (range.size + page_size - 1) / page_size * page_size;
    if (part.text && (range.start < lowest_text || range.end() <= range.start))
        return failf("its code at {:#x} is not where modules are", range.start.value);
    return range;
}

Result<ModuleTable> table_of(const Object& object, const ModuleLayout::Table& where,
                             const char* what) {
    ModuleTable table;
    if (!where.present)
        return table;
    table.first = object.pointer(where.first);
    table.count = object.number(where.count, sizeof(uint32_t));
    if (table.count > max_entries)
        return failf("it has {} {}", table.count, what);
    return table;
}

Result<GuestModule> module_of(const Object& object, const ModuleLayout& layout, Gva at) {
    auto name = name_of(object, layout);
    if (!name)
        return fail(name.error());
    GuestModule module;
    module.name = std::move(*name);
    module.object = at;
    module.state = state_of(object.number(layout.state, sizeof(uint32_t)));
    module.kallsyms = object.pointer(layout.kallsyms);
    // One that has no memory yet, or no more, has nothing to be read.
    if (module.state == GuestModule::State::unformed)
        return module;
    for (const ModuleLayout::Part& part : layout.parts) {
        if (part.init)
            continue;
        auto range = range_of(object, part);
        if (!range)
            return fail(range.error().in(module.name));
        if (part.text)
            module.text = *range;
        else if (range->size > 0)
            module.data.push_back(*range);
    }
    const struct {
        const ModuleLayout::Table& where;
        ModuleTable& to;
        const char* what;
    } tables[] = {
        {layout.exceptions, module.exceptions, "entries in its exception table"},
        {layout.jump_labels, module.jump_labels, "static keys"},
        {layout.static_calls, module.static_calls, "static calls"},
        {layout.bugs, module.bugs, "entries in its bug table"},
        {layout.ftrace, module.ftrace, "places of ftrace"},
    };
    for (const auto& one : tables) {
        auto table = table_of(object, one.where, one.what);
        if (!table)
            return fail(table.error().in(module.name));
        one.to = *table;
    }
    if (layout.noinstr.present)
        module.noinstr = {object.pointer(layout.noinstr.first),
                          object.number(layout.noinstr.count, sizeof(uint32_t))};
    return module;
}

Result<Object> read_object(const VirtualMemory& memory, const ModuleLayout& layout, Gva at) {
    std::vector<std::byte> bytes(layout.object_size);
    SM_TRY(memory.read(at, bytes));
    return Object(std::move(bytes));
}

/// What a module says of its symbols.
struct SymbolTable {
    std::vector<Elf64_Sym> entries;
    Gva names, types;
};

Result<SymbolTable> read_symbol_table(const VirtualMemory& memory, const ModuleLayout& layout,
                                      const GuestModule& module) {
    auto symtab = memory.read_value<uint64_t>(module.kallsyms + layout.symtab);
    auto count = memory.read_value<uint32_t>(module.kallsyms + layout.symbol_count);
    auto strtab = memory.read_value<uint64_t>(module.kallsyms + layout.strtab);
    auto types = memory.read_value<uint64_t>(module.kallsyms + layout.types);
    for (const auto* one : {&symtab, &strtab, &types})
        if (!*one)
            return fail(one->error());
    if (!count)
        return fail(count.error());
    if (*count > max_symbols)
        return failf("it has {} of them", *count);
    SymbolTable table{std::vector<Elf64_Sym>(*count), Gva(*strtab), Gva(*types)};
    SM_TRY(memory.read(Gva(*symtab), std::as_writable_bytes(std::span(table.entries))));
    return table;
}

/// Reads offsets of members and remembers the first one that is not as expected.
class MemberReader {
  public:
    MemberReader(const Btf& btf, const char* type) : btf_(btf), type_(type) {}

    uint32_t need(const char* member, uint32_t size) {
        auto found = btf_.member(type_, member);
        if (!found)
            note(found.error());
        else if (found->size != size)
            note(Error(fmt::format("BTF: {}.{} has {} bytes, expected {}", type_, member,
                                   found->size, size)));
        else
            return found->offset;
        return 0;
    }
    /// A kernel that is built without them has no such members.
    ModuleLayout::Table table(const char* first, const char* count) {
        if (!btf_.member(type_, first))
            return {};
        return {need(first, sizeof(uint64_t)), need(count, sizeof(uint32_t)), true};
    }
    const std::optional<Error>& error() const { return error_; }

  private:
    void note(const Error& error) {
        if (!error_)
            error_ = error;
    }
    const Btf& btf_;
    const char* type_;
    std::optional<Error> error_;
};

/// enum mod_mem_type; the order is part of how modules have been laid out since 6.4.
constexpr uint32_t memory_kinds = 7;
constexpr uint32_t kind_text = 0, kind_init_text = 4;

Status find_parts(const Btf& btf, MemberReader& module, ModuleLayout& out) {
    if (auto memory = btf.member("module", "mem")) {
        MemberReader part(btf, "module_memory");
        uint32_t base = part.need("base", 8), size = part.need("size", 4);
        auto stride = btf.size("module_memory");
        if (part.error() || !stride)
            return fail(part.error() ? *part.error() : stride.error());
        if (memory->size != *stride * memory_kinds)
            return failf("BTF: module.mem has {} bytes, expected {} of {}", memory->size,
                         memory_kinds, *stride);
        for (uint32_t kind = 0; kind < memory_kinds; kind++) {
            uint32_t at = memory->offset + kind * *stride;
            out.parts.push_back({at + base, at + size, 8, 4, kind >= kind_init_text,
                                 kind == kind_text || kind == kind_init_text});
        }
        return {};
    }
    // Its text is at the beginning of each; that of what stays is all that is asked for as text.
    uint32_t base = module.need("core_layout.base", 8);
    out.parts.push_back({base, module.need("core_layout.text_size", 4), 8, 4, false, true});
    out.parts.push_back({base, module.need("core_layout.size", 4), 8, 4, false, false});
    return {};
}

} // namespace

Result<ModuleLayout> ModuleLayout::of(const Btf& btf) {
    ModuleLayout out{};
    MemberReader module(btf, "module");
    auto size = btf.size("module");
    auto name = btf.member("module", "name");
    if (!size || !name)
        return fail((size ? name.error() : size.error()));
    if (*size > max_object || name->size == 0 || name->size > max_module_name)
        return failf("BTF: struct module has {} bytes, its name {}", *size, name->size);
    out.object_size = *size;
    out.name = name->offset;
    out.name_size = name->size;
    out.list = module.need("list", 16);
    out.state = module.need("state", 4);
    SM_TRY(find_parts(btf, module, out));
    out.exceptions = module.table("extable", "num_exentries");
    out.jump_labels = module.table("jump_entries", "num_jump_entries");
    out.static_calls = module.table("static_call_sites", "num_static_call_sites");
    out.bugs = module.table("bug_table", "num_bugs");
    out.ftrace = module.table("ftrace_callsites", "num_ftrace_callsites");
    out.noinstr = module.table("noinstr_text_start", "noinstr_text_size");
    out.kallsyms = module.need("kallsyms", 8);
    MemberReader symbols(btf, "mod_kallsyms");
    out.symtab = symbols.need("symtab", 8);
    out.symbol_count = symbols.need("num_symtab", 4);
    out.strtab = symbols.need("strtab", 8);
    out.types = symbols.need("typetab", 8);
    if (module.error() || symbols.error())
        return fail(module.error() ? *module.error() : *symbols.error());
    return out;
}

bool GuestModule::contains(Gva gva) const {
    return text.contains(gva) || std::any_of(data.begin(), data.end(), [&](const auto& range) {
               return range.contains(gva);
           });
}

const char* describe(GuestModule::State state) {
    switch (state) {
    case GuestModule::State::live:
        return "live";
    case GuestModule::State::coming:
        return "still being loaded";
    case GuestModule::State::going:
    case GuestModule::State::unformed:
        break;
    }
    return "being loaded or unloaded";
}

const GuestModule* GuestModules::find(std::string_view name) const {
    auto same = [&](const GuestModule& module) {
        return std::equal(
            name.begin(), name.end(), module.name.begin(), module.name.end(),
            [](char a, char b) { return (a == '-' ? '_' : a) == (b == '-' ? '_' : b); });
    };
    auto found = std::find_if(modules.begin(), modules.end(), same);
    return found == modules.end() ? nullptr : &*found;
}

const GuestModule* GuestModules::around(Gva text) const {
    auto found = std::find_if(modules.begin(), modules.end(), [&](const GuestModule& module) {
        return module.text.contains(text);
    });
    return found == modules.end() ? nullptr : &*found;
}

GuestModules read_modules(const VirtualMemory& memory, const ModuleLayout& layout, Gva head) {
    GuestModules out;
    auto next = memory.read_value<uint64_t>(head);
    if (!next) {
        out.problems.push_back(next.error().in("the list of modules").message());
        return out;
    }
    std::set<uint64_t> seen;
    while (Gva(*next) != head) {
        if (out.modules.size() + out.problems.size() >= max_modules) {
            out.problems.push_back(
                fmt::format("the list of modules does not end after {}", max_modules));
            break;
        }
        if (!seen.insert(*next).second) {
            out.problems.push_back(fmt::format("the list of modules leads back to {:#x}", *next));
            break;
        }
        Gva at = Gva(*next) - layout.list;
        auto object = read_object(memory, layout, at);
        if (!object) {
            out.problems.push_back(
                object.error().in(fmt::format("the list of modules: {:#x}", at.value)).message());
            break;
        }
        auto module = module_of(*object, layout, at);
        if (module)
            out.modules.push_back(std::move(*module));
        else
            out.problems.push_back(fmt::format("the module at {:#x} is left out: {}", at.value,
                                               module.error().message()));
        *next = object->pointer(layout.list).value;
    }
    return out;
}

Result<GuestModule> read_module(const VirtualMemory& memory, const ModuleLayout& layout,
                                Gva object) {
    auto read = read_object(memory, layout, object);
    if (!read)
        return fail(read.error().in(fmt::format("the module at {:#x}", object.value)));
    return module_of(*read, layout, object);
}

Result<GuestModules> read_modules(const KernelInfo& kernel, const PhysicalMemory& memory) {
    auto head = kernel.symbols.address("modules");
    if (!head)
        return fail(head.error().in("find the guest's modules"));
    auto layout = ModuleLayout::of(kernel.btf);
    if (!layout)
        return fail(layout.error().in("find the guest's modules"));
    return read_modules(VirtualMemory(kernel.image.tables(memory)), *layout, *head);
}

Result<ModuleSymbols> read_module_symbols(const VirtualMemory& memory, const ModuleLayout& layout,
                                          const GuestModule& module) {
    std::string step = fmt::format("symbols of module {}", module.name);
    auto table = read_symbol_table(memory, layout, module);
    if (!table)
        return fail(table.error().in(step));
    std::vector<char> letters(table->entries.size());
    if (auto status = memory.read(table->types, std::as_writable_bytes(std::span(letters)));
        !status)
        return fail(status.error().in(step + ": their types"));

    std::vector<std::string> names;
    std::vector<Symbol> symbols;
    std::vector<Gva> ends;
    size_t name_bytes = 0;
    names.reserve(letters.size()); // symbols point into it
    for (size_t i = 0; i < letters.size(); i++) {
        const Elf64_Sym& entry = table->entries[i];
        Gva at(entry.st_value);
        // The others are of what is gone after loading, or of other modules.
        if (entry.st_shndx == SHN_UNDEF || !module.contains(at))
            continue;
        auto name = memory.read_string(table->names + entry.st_name, max_symbol_name);
        if (!name)
            return fail(name.error().in(fmt::format("{}: the name of number {}", step, i)));
        name_bytes += name->size();
        if (name_bytes > max_names)
            return failf("{}: their names take more than {} bytes", step, max_names);
        if (name->empty())
            continue;
        symbols.push_back({names.emplace_back(std::move(*name)), at.value, letters[i], false});
        Gva end = at + entry.st_size;
        if (end > at && module.text.contains(at) && module.text.contains(end - 1))
            ends.push_back(end);
    }
    std::sort(ends.begin(), ends.end());
    return ModuleSymbols{Kallsyms::of(std::move(symbols), "module " + module.name),
                         std::move(ends)};
}

Result<ModuleSymbols> read_module_symbols(const KernelInfo& kernel, const PhysicalMemory& memory,
                                          const GuestModule& module) {
    auto layout = ModuleLayout::of(kernel.btf);
    if (!layout)
        return fail(layout.error());
    return read_module_symbols(VirtualMemory(kernel.image.tables(memory)), *layout, module);
}

Result<std::string> function_at(const VirtualMemory& memory, const ModuleLayout& layout,
                                const GuestModule& module, Gva at) {
    std::string step = fmt::format("symbols of module {}", module.name);
    auto table = read_symbol_table(memory, layout, module);
    if (!table)
        return fail(table.error().in(step));
    for (const Elf64_Sym& entry : table->entries) {
        if (Gva(entry.st_value) != at || entry.st_shndx == SHN_UNDEF)
            continue;
        auto name = memory.read_string(table->names + entry.st_name, max_symbol_name);
        if (!name)
            return fail(name.error().in(step));
        if (!name->empty())
            return name;
    }
    return std::string();
}

bool same_module(const GuestModule& a, const GuestModule& b) {
    return a.object == b.object && a.name == b.name && a.text.start == b.text.start &&
           a.text.size == b.text.size;
}

bool still_loaded(const GuestModules& now, const GuestModule& then) {
    return std::any_of(now.modules.begin(), now.modules.end(), [&](const GuestModule& module) {
        return same_module(module, then) && (module.state == GuestModule::State::live ||
                                             (module.state == GuestModule::State::coming &&
                                              then.state == GuestModule::State::coming));
    });
}

} // namespace shadowmon
