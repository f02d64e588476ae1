// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/guest/synthetic.h"

#include <bpf/btf.h>
#include <elf.h>
#include <linux/btf.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <stdexcept>

namespace shadowmon::test {

SmallMemory::SmallMemory(uint64_t size)
    : bytes_(static_cast<std::byte*>(std::calloc(size, 1))), ram_{{Gpa(0), size}} {}

Status SmallMemory::read(Gpa gpa, std::span<std::byte> out) const {
    if (gpa.value > ram_[0].size || out.size() > ram_[0].size - gpa.value)
        return failf("no RAM at {:#x} (+{:#x})", gpa.value, out.size());
    ++reads;
    std::memcpy(out.data(), bytes_.get() + gpa.value, out.size());
    return {};
}

uint64_t& SmallMemory::word(Gpa gpa) {
    if (gpa.value % 8 || gpa.value + 8 > ram_[0].size)
        throw std::out_of_range("test memory is too small");
    return *reinterpret_cast<uint64_t*>(bytes_.get() + gpa.value);
}

Gpa SmallMemory::new_page() {
    Gpa page(next_);
    next_ += 0x1000;
    word(page);
    return page;
}

uint64_t& SmallMemory::entry(Gpa root, unsigned levels, Gva gva, unsigned level) {
    Gpa table = root;
    for (unsigned at = levels;; --at) {
        uint64_t& entry = word(table + 8 * ((gva.value >> (12 + 9 * (at - 1))) & 511));
        if (at == level)
            return entry;
        if (!(entry & Present))
            entry = new_page().value | Present | Writable | User;
        table = Gpa(entry & 0x000ffffffffff000);
    }
}

void SmallMemory::map(Gpa root, unsigned levels, Gva gva, Gpa gpa, unsigned level, uint64_t flags) {
    entry(root, levels, gva, level) = gpa.value | flags | Present | (level > 1 ? LargePage : 0);
}

namespace {

/// Appends the tables, each aligned to 8.
class Tables {
  public:
    template <typename T> void add(T value) {
        const auto* bytes = reinterpret_cast<const std::byte*>(&value);
        out.insert(out.end(), bytes, bytes + sizeof(value));
    }
    void align() { out.resize((out.size() + 7) & ~size_t{7}); }

    std::vector<std::byte> out;
};

/// Each character stands for itself; the other 8-bit values are pairs of letters.
std::string token(unsigned index) {
    if (index >= 0x21 && index < 0x7f)
        return std::string(1, static_cast<char>(index));
    return {static_cast<char>('a' + index % 26), static_cast<char>('a' + index / 26)};
}

void add_names(Tables& tables, const std::vector<FakeSymbol>& symbols,
               std::vector<uint32_t>& markers) {
    size_t start = tables.out.size();
    for (size_t i = 0; i < symbols.size(); ++i) {
        if (i % 256 == 0)
            markers.push_back(static_cast<uint32_t>(tables.out.size() - start));
        std::string text = symbols[i].type + symbols[i].name;
        std::vector<uint8_t> coded;
        for (size_t at = 0; at < text.size();) {
            unsigned pair = 0;
            while (pair < 256 && text.compare(at, 2, token(pair)) != 0)
                ++pair;
            coded.push_back(static_cast<uint8_t>(pair < 256 ? pair : text[at]));
            at += pair < 256 ? 2 : 1;
        }
        if (coded.size() < 0x80) {
            tables.add(static_cast<uint8_t>(coded.size()));
        } else {
            tables.add(static_cast<uint8_t>((coded.size() & 0x7f) | 0x80));
            tables.add(static_cast<uint8_t>(coded.size() >> 7));
        }
        for (uint8_t byte : coded)
            tables.add(byte);
    }
}

void add_values(Tables& tables, const std::vector<FakeSymbol>& symbols, uint64_t text,
                bool absolute_percpu) {
    for (const FakeSymbol& symbol : symbols) {
        if (!absolute_percpu)
            tables.add(static_cast<uint32_t>(symbol.value - text));
        else if (symbol.value < (uint64_t{1} << 31))
            tables.add(static_cast<uint32_t>(symbol.value));
        else
            tables.add(static_cast<uint32_t>(text - 1 - symbol.value));
    }
    tables.align();
    tables.add(text);
}

} // namespace

std::vector<std::byte> make_kallsyms(const std::vector<FakeSymbol>& symbols, uint64_t text,
                                     TableOrder order, bool absolute_percpu) {
    Tables tables;
    std::vector<uint32_t> markers;
    for (uint64_t noise = 1; noise < 512; ++noise) // other read-only data
        tables.add(noise * 0x9e3779b97f4a7c15);
    if (order != TableOrder::Since64)
        add_values(tables, symbols, text, absolute_percpu);
    tables.add(uint64_t{symbols.size()});
    add_names(tables, symbols, markers);
    tables.align();
    for (uint32_t marker : markers)
        tables.add(marker);
    tables.align();
    if (order == TableOrder::Before64WithSeqs)
        tables.out.resize(tables.out.size() + 3 * symbols.size(), std::byte{7});
    tables.align();
    std::vector<uint16_t> index;
    size_t start = tables.out.size();
    for (unsigned i = 0; i < 256; ++i) {
        index.push_back(static_cast<uint16_t>(tables.out.size() - start));
        for (char c : token(i))
            tables.add(c);
        tables.add('\0');
    }
    tables.align();
    for (uint16_t offset : index)
        tables.add(offset);
    if (order == TableOrder::Since64)
        add_values(tables, symbols, text, absolute_percpu);
    for (uint64_t noise = 1; noise < 64; ++noise)
        tables.add(noise * 0xbf58476d1ce4e5b9);
    return tables.out;
}

std::vector<FakeSymbol> fake_symbols(uint64_t text) {
    std::vector<FakeSymbol> symbols = {{"fixed_percpu_data", 'A', 0},
                                       {"__per_cpu_start", 'A', 0},
                                       {"current_task", 'A', 0x1fb80},
                                       {"_text", 'T', text},
                                       {"_stext", 'T', text}};
    for (uint64_t i = 0; i < 600; ++i)
        symbols.push_back(
            {fmt::format("function_number_{}", i), i % 3 ? 't' : 'T', text + 0x40 + 0x20 * i});
    symbols.push_back({"twice", 't', text + 0x10000});
    symbols.push_back({"alias_of_twice", 't', text + 0x10000});
    symbols.push_back({"twice", 't', text + 0x10040});
    symbols.push_back({std::string(200, 'Q'), 'd', text + 0x20000});
    symbols.push_back({"_end", 'B', text + 0x200000});
    return symbols;
}

std::string make_system_map(const std::vector<FakeSymbol>& symbols) {
    std::string out;
    for (const FakeSymbol& symbol : symbols)
        out += fmt::format("{:016x} {} {}\n", symbol.value, symbol.type, symbol.name);
    return out;
}

std::vector<std::byte> make_vmlinux(const std::vector<FakeSymbol>& symbols) {
    constexpr uint16_t text_section = 1, data_section = 2, symbols_section = 3, strings_section = 4,
                       section_count = 5; // sections
    std::vector<Elf64_Sym> table(1);
    std::string strings(1, '\0');
    for (const FakeSymbol& symbol : symbols) {
        Elf64_Sym entry{};
        entry.st_name = static_cast<uint32_t>(strings.size());
        bool local = std::islower(static_cast<unsigned char>(symbol.type));
        entry.st_info = ELF64_ST_INFO(local ? STB_LOCAL : STB_GLOBAL, STT_NOTYPE);
        char type = static_cast<char>(std::toupper(static_cast<unsigned char>(symbol.type)));
        entry.st_shndx = type == 'A' ? SHN_ABS : type == 'T' ? text_section : data_section;
        entry.st_value = symbol.value;
        table.push_back(entry);
        strings += symbol.name + '\0';
    }
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_shoff = header.e_ehsize = sizeof(header);
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = section_count;
    Elf64_Shdr sections[section_count]{};
    sections[text_section].sh_type = sections[data_section].sh_type = SHT_NOBITS;
    sections[text_section].sh_flags = SHF_ALLOC | SHF_EXECINSTR;
    sections[data_section].sh_flags = SHF_ALLOC | SHF_WRITE;
    sections[symbols_section].sh_type = SHT_SYMTAB;
    sections[symbols_section].sh_offset = sizeof(header) + sizeof(sections);
    sections[symbols_section].sh_size = table.size() * sizeof(Elf64_Sym);
    sections[symbols_section].sh_entsize = sizeof(Elf64_Sym);
    sections[symbols_section].sh_link = strings_section;
    sections[strings_section].sh_type = SHT_STRTAB;
    sections[strings_section].sh_offset =
        sections[symbols_section].sh_offset + sections[symbols_section].sh_size;
    sections[strings_section].sh_size = strings.size();

    std::vector<std::byte> out;
    auto add = [&](const void* data, size_t size) {
        const auto* bytes = static_cast<const std::byte*>(data);
        out.insert(out.end(), bytes, bytes + size);
    };
    add(&header, sizeof(header));
    add(sections, sizeof(sections));
    add(table.data(), sections[symbols_section].sh_size);
    add(strings.data(), strings.size());
    return out;
}

std::vector<std::byte> make_btf() {
    struct ::btf* btf = btf__new_empty();
    int int_id = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
    int char_id = btf__add_int(btf, "char", 1, BTF_INT_CHAR);
    int comm_id = btf__add_array(btf, int_id, char_id, 16);
    int list = btf__add_struct(btf, "list_head", 16);
    int list_pointer = btf__add_ptr(btf, list);
    btf__add_union(btf, nullptr, 8);
    btf__add_field(btf, "in_union_a", int_id, 0, 0);
    btf__add_field(btf, "in_union_b", list_pointer, 0, 0);
    int union_id = static_cast<int>(btf__type_cnt(btf)) - 1;
    btf__add_struct(btf, nullptr, 24);
    btf__add_field(btf, "in_struct", int_id, 32, 0);
    btf__add_field(btf, nullptr, union_id, 64, 0);
    btf__add_field(btf, "named", list, 64, 0);
    int inner = btf__add_const(btf, static_cast<int>(btf__type_cnt(btf)) - 1);
    btf__add_struct(btf, "task_struct", 128);
    btf__add_field(btf, "__state", int_id, 0, 0);
    btf__add_field(btf, nullptr, inner, 64, 0);
    btf__add_field(btf, "pid", int_id, 256, 0);
    btf__add_field(btf, "tgid", int_id, 288, 0);
    btf__add_field(btf, "comm", comm_id, 320, 0);
    btf__add_field(btf, "list", list, 448, 0);
    btf__add_field(btf, "flag", int_id, 576, 3);
    btf__add_typedef(btf, "task_t", static_cast<int>(btf__type_cnt(btf)) - 1);
    btf__add_enum(btf, "state", 4);
    btf__add_enum_value(btf, "RUNNING", 0);
    btf__add_func_proto(btf, int_id);
    btf__add_func_param(btf, "task", list_pointer);
    btf__add_func(btf, "function", BTF_FUNC_GLOBAL, static_cast<int>(btf__type_cnt(btf)) - 1);
    uint32_t size = 0;
    const void* data = btf__raw_data(btf, &size);
    const auto* bytes = static_cast<const std::byte*>(data);
    std::vector<std::byte> blob(bytes, bytes + size);
    btf__free(btf);
    return blob;
}

} // namespace shadowmon::test
