// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/events.h"
#include "abi/layout.h"
#include "payload/symbols.h"

#include <cstddef>
#include <cstring>
#include <elf.h>
#include <string>
#include <vector>

namespace shadowmon {

/// An ELF file as payload/symbols.h describes it, with parts that tests can spoil.
struct FakePayload {
    Elf64_Ehdr header{};
    std::vector<Elf64_Phdr> programs;
    std::vector<Elf64_Shdr> sections;
    std::vector<Elf64_Sym> symbols;
    std::string names{"\0", 1};
    std::vector<std::byte> contents;
    uint32_t version = SM_ABI_VERSION;

    FakePayload() {
        segment(SM_GATE_OFFSET, PF_R | PF_X, 0x1000, std::byte{0x90});
        segment(SM_TEXT_OFFSET, PF_R | PF_X, 0x2000, std::byte{0x91});
        segment(SM_RODATA_OFFSET, PF_R, 0x123, std::byte{0});
        segment(SM_DATA_OFFSET, PF_R | PF_W, 0x10, std::byte{0x93});
        programs[3].p_memsz = 0x1800;
        symbol(SM_SYMBOL_GATE_INT20, SM_GATE_OFFSET + 0x10);
        symbol(SM_SYMBOL_GATE_CALL, SM_GATE_OFFSET + 0x80);
        symbol(SM_SYMBOL_GATE_CHAIN_JUMP, SM_GATE_OFFSET + 0x20);
        symbol(SM_SYMBOL_ABI_VERSION, SM_RODATA_OFFSET + 0x20);
        contents[0x20] = std::byte{0xe9};
    }

    void segment(uint64_t offset, uint32_t flags, size_t size, std::byte fill) {
        Elf64_Phdr p{};
        p.p_type = PT_LOAD;
        p.p_flags = flags;
        p.p_vaddr = SM_COMPARTMENT_GVA + offset;
        p.p_offset = contents.size();
        p.p_filesz = p.p_memsz = size;
        programs.push_back(p);
        contents.resize(contents.size() + size, fill);
    }

    void symbol(const char* name, uint64_t offset) {
        Elf64_Sym s{};
        s.st_name = static_cast<uint32_t>(names.size());
        s.st_shndx = 1;
        s.st_value = SM_COMPARTMENT_GVA + offset;
        symbols.push_back(s);
        names += name;
        names += '\0';
    }

    /// The file: header, program headers, section headers, symbols, names, contents.
    std::vector<std::byte> file() const {
        Elf64_Ehdr h = header;
        std::memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS64;
        h.e_type = ET_EXEC;
        h.e_machine = EM_X86_64;
        h.e_phentsize = sizeof(Elf64_Phdr);
        h.e_shentsize = sizeof(Elf64_Shdr);
        h.e_phnum = static_cast<uint16_t>(programs.size());
        h.e_shnum = 2;
        h.e_phoff = sizeof(h);
        h.e_shoff = h.e_phoff + programs.size() * sizeof(Elf64_Phdr);
        uint64_t symbols_at = h.e_shoff + 2 * sizeof(Elf64_Shdr);
        uint64_t names_at = symbols_at + symbols.size() * sizeof(Elf64_Sym);
        uint64_t contents_at = names_at + names.size();

        Elf64_Shdr table{}, strings{};
        table.sh_type = SHT_SYMTAB;
        table.sh_offset = symbols_at;
        table.sh_size = symbols.size() * sizeof(Elf64_Sym);
        table.sh_link = 1;
        strings.sh_type = SHT_STRTAB;
        strings.sh_offset = names_at;
        strings.sh_size = names.size();

        std::vector<std::byte> out;
        auto put = [&](const void* data, size_t size) {
            const auto* p = static_cast<const std::byte*>(data);
            out.insert(out.end(), p, p + size);
        };
        put(&h, sizeof(h));
        for (Elf64_Phdr p : programs) {
            p.p_offset += contents_at;
            put(&p, sizeof(p));
        }
        put(&table, sizeof(table));
        put(&strings, sizeof(strings));
        put(symbols.data(), symbols.size() * sizeof(Elf64_Sym));
        put(names.data(), names.size());
        size_t rodata = contents_at + programs[2].p_offset;
        put(contents.data(), contents.size());
        std::memcpy(out.data() + rodata + 0x20, &version, sizeof(version));
        return out;
    }
};

} // namespace shadowmon
