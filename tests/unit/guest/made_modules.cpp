// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/guest/made_modules.h"

#include <bpf/btf.h>
#include <elf.h>

#include <cstring>
#include <stdexcept>

namespace shadowmon::test {

namespace {

constexpr Gpa backing(1 << 20); ///< of head and what follows
constexpr int text_section = 1;

} // namespace

std::vector<std::byte> make_module_btf(ModuleSeries series, const std::string& without) {
    struct ::btf* btf = btf__new_empty();
    int number = btf__add_int(btf, "unsigned int", 4, 0);
    int byte = btf__add_int(btf, "char", 1, BTF_INT_CHAR);
    int pointer = btf__add_ptr(btf, 0);
    int name = btf__add_array(btf, number, byte, 56);
    int list = btf__add_struct(btf, "list_head", 16);
    auto field = [&](const char* what, int type, uint32_t offset) {
        if (without != what)
            btf__add_field(btf, what, type, 8 * offset, 0);
    };
    int part = 0;
    if (series == ModuleSeries::Core) {
        part = btf__add_struct(btf, "module_layout", 80);
        field("base", pointer, 0);
        field("size", number, 8);
        field("text_size", number, 12);
    } else {
        int memory = btf__add_struct(btf, "module_memory", 72);
        field("base", pointer, 0);
        field("size", number, 8);
        part = btf__add_array(btf, number, memory, 7);
    }
    btf__add_struct(btf, "mod_kallsyms", 32);
    field("symtab", pointer, 0);
    field("num_symtab", number, 8);
    field("strtab", pointer, 16);
    field("typetab", pointer, 24);
    btf__add_struct(btf, "module", 1024);
    field("state", number, 0);
    field("list", list, 8);
    field("name", name, 24);
    if (series == ModuleSeries::Core) {
        field("core_layout", part, 128);
        field("init_layout", part, 208);
    } else {
        field("mem", part, 128);
    }
    uint32_t at = 640;
    for (auto [first, count] : {std::pair("extable", "num_exentries"),
                                {"jump_entries", "num_jump_entries"},
                                {"static_call_sites", "num_static_call_sites"},
                                {"bug_table", "num_bugs"},
                                {"ftrace_callsites", "num_ftrace_callsites"},
                                {"noinstr_text_start", "noinstr_text_size"}}) {
        field(first, pointer, at);
        field(count, number, at + 8);
        at += 16;
    }
    field("kallsyms", pointer, at);
    uint32_t size = 0;
    const void* data = btf__raw_data(btf, &size);
    const auto* bytes = static_cast<const std::byte*>(data);
    std::vector<std::byte> blob(bytes, bytes + size);
    btf__free(btf);
    return blob;
}

MadeModules::MadeModules(ModuleSeries series) {
    auto btf = Btf::parse(make_module_btf(series));
    auto found = btf ? ModuleLayout::of(*btf) : Result<ModuleLayout>(fail(btf.error()));
    if (!found)
        throw std::runtime_error(found.error().message());
    layout = *found;
    root_ = memory_.new_page();
    for (uint64_t page = 0; page < (ram >> 1); page += 0x1000)
        memory_.map(root_, 4, head + page, backing + page, 1, Writable);
    link(0);
}

Gpa MadeModules::gpa_of(Gva at) { return backing + (at - head); }

void MadeModules::put(Gva at, const void* bytes, size_t size) {
    std::memcpy(memory_.bytes().subspan(gpa_of(at).value, size).data(), bytes, size);
}

/// Ends the list behind so many.
void MadeModules::link(size_t count) {
    Gva previous = head;
    for (size_t i = 0; i < count; i++) {
        write(previous, (object_of(i) + layout.list).value);
        previous = object_of(i) + layout.list;
    }
    write(previous, head.value);
}

void MadeModules::add(const std::string& name, GuestModule::State state) {
    size_t index = count_++;
    Gva text = start(index), module = object_of(index);
    write(module + layout.state, static_cast<uint32_t>(state));
    put(module + layout.name, name.c_str(), name.size() + 1);
    bool core = layout.parts.size() == 2;
    for (const ModuleLayout::Part& part : layout.parts) {
        if (part.init)
            continue;
        // A module of the older kind is one piece, of which the text is the beginning.
        write(module + part.base, (part.text || core ? text : text + text_size).value);
        bool whole = part.text || &part == &layout.parts[1];
        uint64_t size = part.text ? text_size : core ? end : end - text_size;
        write(module + part.size, static_cast<uint32_t>(whole ? size : 0));
    }
    write(module + layout.kallsyms, (text + kallsyms).value);
    write(text + kallsyms + layout.symtab, (text + symtab).value);
    write(text + kallsyms + layout.strtab, (text + names).value);
    write(text + kallsyms + layout.types, (text + types).value);

    const struct {
        std::string name;
        Gva at;
        uint64_t size;
        char type;
        uint16_t section;
    } symbols[] = {
        {"", Gva(), 0, 'U', SHN_UNDEF},
        {name + "_second", text + 0x40, 0x20, 't', text_section},
        {name + "_first", text, 0x30, 'T', text_section},
        {name + "_data", text + text_size + 8, 8, 'd', text_section + 1},
        {"vfs_read", Gva(0xffffffff81000000), 0, 'T', text_section},
    };
    uint32_t string = 0;
    uint32_t count = 0;
    for (const auto& one : symbols) {
        Elf64_Sym symbol{};
        symbol.st_name = string;
        symbol.st_shndx = one.section;
        symbol.st_value = one.at.value;
        symbol.st_size = one.size;
        write(text + symtab + count * sizeof(symbol), symbol);
        write(text + types + count, one.type);
        put(text + names + string, one.name.c_str(), one.name.size() + 1);
        string += static_cast<uint32_t>(one.name.size() + 1);
        count++;
    }
    write(text + kallsyms + layout.symbol_count, count);
    link(count_);
}

} // namespace shadowmon::test
