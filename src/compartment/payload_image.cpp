// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/payload_image.h"

#include "abi/events.h"
#include "abi/layout.h"
#include "payload/symbols.h"

#include <cstring>
#include <elf.h>
#include <optional>

namespace shadowmon {

namespace {

/// What abi/layout.h and payload/symbols.h say of each segment, in the file's order.
constexpr struct {
    const char* name;
    uint64_t offset;
    uint64_t max_size;
    bool writable, executable;
} expected[] = {
    {"gate", SM_GATE_OFFSET, SM_PAGE_SIZE, false, true},
    {"text", SM_TEXT_OFFSET, SM_TEXT_MAX_SIZE, false, true},
    {"rodata", SM_RODATA_OFFSET, SM_RODATA_MAX_SIZE, false, false},
    {"data", SM_DATA_OFFSET, SM_DATA_MAX_SIZE, true, false},
};

/// Copies a T out of the file, nothing if it does not lie within.
template <typename T> std::optional<T> at(std::span<const std::byte> file, uint64_t offset) {
    if (offset > file.size() || file.size() - offset < sizeof(T))
        return std::nullopt;
    T value;
    std::memcpy(&value, file.data() + offset, sizeof(T));
    return value;
}

std::optional<std::span<const std::byte>> part(std::span<const std::byte> file, uint64_t offset,
                                               uint64_t size) {
    if (offset > file.size() || file.size() - offset < size)
        return std::nullopt;
    return file.subspan(offset, size);
}

Result<PayloadSegment> check_segment(std::span<const std::byte> file, const Elf64_Phdr& header,
                                     size_t index) {
    const auto& want = expected[index];
    bool writable = header.p_flags & PF_W;
    bool executable = header.p_flags & PF_X;
    if (header.p_vaddr != SM_COMPARTMENT_GVA + want.offset || header.p_memsz == 0 ||
        header.p_memsz > want.max_size || header.p_filesz > header.p_memsz ||
        writable != want.writable || executable != want.executable)
        return failf("the payload's {} segment ({:#x}, {} bytes, flags {}) is not as laid out",
                     want.name, header.p_vaddr, header.p_memsz, header.p_flags);
    auto bytes = part(file, header.p_offset, header.p_filesz);
    if (!bytes)
        return failf("the payload's {} segment reaches beyond the file", want.name);
    return PayloadSegment{Gva(header.p_vaddr), *bytes, header.p_memsz, writable, executable};
}

} // namespace

Result<PayloadImage> PayloadImage::parse(std::span<const std::byte> file) {
    auto header = at<Elf64_Ehdr>(file, 0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_X86_64 ||
        header->e_type != ET_EXEC || header->e_phentsize != sizeof(Elf64_Phdr) ||
        header->e_shentsize != sizeof(Elf64_Shdr))
        return failf("the payload is no ELF executable for x86-64");

    PayloadImage image;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        auto program = at<Elf64_Phdr>(file, header->e_phoff + i * sizeof(Elf64_Phdr));
        if (!program)
            return failf("the payload's program headers reach beyond the file");
        if (program->p_type != PT_LOAD)
            continue;
        if (image.segments_.size() == std::size(expected))
            return failf("the payload has more than {} segments", std::size(expected));
        auto segment = check_segment(file, *program, image.segments_.size());
        if (!segment)
            return fail(segment.error());
        image.segments_.push_back(*segment);
    }
    if (image.segments_.size() != std::size(expected))
        return failf("the payload has {} segments, not {}", image.segments_.size(),
                     std::size(expected));

    for (unsigned i = 0; i < header->e_shnum; i++) {
        auto section = at<Elf64_Shdr>(file, header->e_shoff + i * sizeof(Elf64_Shdr));
        if (!section)
            return failf("the payload's section headers reach beyond the file");
        if (section->sh_type != SHT_SYMTAB)
            continue;
        auto strings =
            at<Elf64_Shdr>(file, header->e_shoff + uint64_t{section->sh_link} * sizeof(Elf64_Shdr));
        if (!strings)
            return failf("the payload's symbol names are missing");
        auto names = part(file, strings->sh_offset, strings->sh_size);
        auto table = part(file, section->sh_offset, section->sh_size);
        if (!names || !table)
            return failf("the payload's symbols reach beyond the file");
        for (uint64_t offset = 0; offset + sizeof(Elf64_Sym) <= table->size();
             offset += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol;
            std::memcpy(&symbol, table->data() + offset, sizeof(symbol));
            if (symbol.st_name >= names->size() || symbol.st_shndx == SHN_UNDEF)
                continue;
            const char* name = reinterpret_cast<const char*>(names->data()) + symbol.st_name;
            image.symbols_.emplace(std::string(name, strnlen(name, names->size() - symbol.st_name)),
                                   Gva(symbol.st_value));
        }
    }

    auto version_at = image.symbol(SM_SYMBOL_ABI_VERSION);
    if (!version_at)
        return fail(version_at.error());
    const PayloadSegment& rodata = image.rodata();
    auto version = *version_at >= rodata.start
                       ? at<uint32_t>(rodata.bytes, *version_at - rodata.start)
                       : std::nullopt;
    if (version != uint32_t{SM_ABI_VERSION})
        return failf("the payload was built for another version of the ABI than {}",
                     SM_ABI_VERSION);
    const PayloadSegment& gate = image.gate();
    for (const char* name :
         {SM_SYMBOL_GATE_INT20, SM_SYMBOL_GATE_CALL, SM_SYMBOL_GATE_CHAIN_JUMP}) {
        auto gva = image.symbol(name);
        if (!gva)
            return fail(gva.error());
        if (*gva < gate.start || *gva >= gate.start + gate.bytes.size())
            return failf("the payload's symbol {} is outside the gate", name);
    }
    return image;
}

Result<Gva> PayloadImage::symbol(const std::string& name) const {
    auto found = symbols_.find(name);
    if (found == symbols_.end())
        return failf("the payload has no symbol {}", name);
    return found->second;
}

} // namespace shadowmon
