// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/symbol_file.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <gelf.h>
#include <memory>
#include <optional>
#include <unistd.h>

namespace shadowmon {

namespace {

/// Another look at the guest would not change it: ENOEXEC.
Failure of_another(const std::string& file, const std::string& why) {
    return fail(Error(fmt::format("{} is not of the guest's kernel: {}", file, why), ENOEXEC));
}

// As much as the kernel's own tables may hold: see KallsymsParser.
constexpr size_t min_symbols = 256;
constexpr size_t max_symbols = 4 << 20;
constexpr size_t max_name = 512;
constexpr size_t max_text = 128 << 20;

constexpr uint64_t image_first = 0xffffffff80000000; ///< where Linux has its image
constexpr uint64_t image_reach = 1u << 30; ///< symbols of the image are this close to `_text`
constexpr size_t min_system_calls = 300;   ///< x86-64 has had more since 2.6.38
constexpr size_t max_system_calls = 1024;

/// What is shown of a file's bytes: nothing that could control a terminal.
std::string printable(std::string_view text) {
    constexpr size_t shown_size = 80;
    std::string out(text.substr(0, shown_size));
    for (char& c : out)
        if (c < 0x20 || c > 0x7e)
            c = '?';
    return out;
}

/// "ffffffff81000000 T _text"; nothing if it is not that.
std::optional<Symbol> parse_line(std::string_view line) {
    Symbol symbol{};
    const char* end = line.data() + line.size();
    auto value = std::from_chars(line.data(), end, symbol.value, 16);
    // Three more: a blank, the type, a blank.
    if (value.ec != std::errc() || end - value.ptr < 4 || value.ptr[0] != ' ' ||
        value.ptr[2] != ' ')
        return std::nullopt;
    symbol.type = value.ptr[1];
    symbol.name = std::string_view(value.ptr + 3, static_cast<size_t>(end - value.ptr - 3));
    if (symbol.name.size() > max_name || !std::isprint(static_cast<unsigned char>(symbol.type)) ||
        symbol.name.find_first_of(" \t\r") != std::string_view::npos)
        return std::nullopt;
    return symbol;
}

/// The table's functions are wrappers for a calling convention, or aliases of such. Not
/// "__pfx___x64_sys_read": that is the padding in front of one, at a distance by which all
/// functions of another build may well be off.
bool is_system_call(std::string_view name) {
    for (std::string_view prefix : {"__x64_", "__x32_", "__ia32_", "__do_", "__se_"})
        if (name.starts_with(prefix) && name.find("sys_") != std::string_view::npos)
            return true;
    return false;
}

struct EndElf {
    void operator()(Elf* elf) const { elf_end(elf); }
};
using ElfFile = std::unique_ptr<Elf, EndElf>;

Failure no_vmlinux(const std::string& name, const std::string& why) {
    return failf("{} is no vmlinux: {}", name, why);
}

std::string elf_error() { return elf_errmsg(-1); }

Status check_header(Elf* elf, const std::string& name) {
    size_t size = 0;
    const char* ident = elf_kind(elf) == ELF_K_ELF ? elf_getident(elf, &size) : nullptr;
    if (!ident || size < EI_NIDENT)
        return no_vmlinux(name, "no ELF file (a bzImage holds it compressed, and has no symbols)");
    // The gelf functions copy: where things lie in the file is not aligned to anything.
    GElf_Ehdr header{};
    if (ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB ||
        !gelf_getehdr(elf, &header) || header.e_machine != EM_X86_64)
        return no_vmlinux(name, "not for x86-64");
    return {};
}

/// The letter of nm(1), as far as it says what section a symbol is in.
char type_of(Elf* elf, const GElf_Sym& symbol) {
    char type = 'A';
    if (symbol.st_shndx != SHN_ABS) {
        GElf_Shdr section{};
        if (!gelf_getshdr(elf_getscn(elf, symbol.st_shndx), &section))
            return '?';
        type = section.sh_flags & SHF_EXECINSTR  ? 'T'
               : !(section.sh_flags & SHF_WRITE) ? 'R'
               : section.sh_type == SHT_NOBITS   ? 'B'
                                                 : 'D';
    }
    bool local = GELF_ST_BIND(symbol.st_info) == STB_LOCAL;
    return local ? static_cast<char>(std::tolower(type)) : type;
}

Result<std::vector<Symbol>> symbols_of(Elf* elf, const std::string& name) {
    SM_TRY(check_header(elf, name));
    Elf_Scn* section = nullptr;
    GElf_Shdr header{};
    do
        section = elf_nextscn(elf, section);
    while (section && gelf_getshdr(section, &header) && header.sh_type != SHT_SYMTAB);
    if (!section || header.sh_type != SHT_SYMTAB)
        return failf("{} has no symbol table: it is stripped", name);

    const Elf_Data* table = elf_getdata(section, nullptr);
    const Elf_Data* strings = elf_rawdata(elf_getscn(elf, header.sh_link), nullptr);
    if (!table || !table->d_buf || table->d_type != ELF_T_SYM || !strings || !strings->d_buf)
        return no_vmlinux(name, "its symbol table cannot be read: " + elf_error());

    std::vector<Symbol> symbols;
    std::string_view text(static_cast<const char*>(strings->d_buf), strings->d_size);
    size_t count = table->d_size / sizeof(GElf_Sym);
    if (count > max_symbols)
        return no_vmlinux(name, fmt::format("{} symbols", count));
    for (size_t i = 0; i < count; ++i) {
        GElf_Sym symbol;
        std::memcpy(&symbol, static_cast<const char*>(table->d_buf) + i * sizeof(symbol),
                    sizeof(symbol));
        unsigned type = GELF_ST_TYPE(symbol.st_info);
        if (symbol.st_shndx == SHN_UNDEF || type == STT_SECTION || type == STT_FILE ||
            symbol.st_name == 0)
            continue;
        std::string_view rest = text.substr(std::min<size_t>(symbol.st_name, text.size()));
        size_t length = rest.substr(0, max_name + 1).find('\0');
        if (length == std::string_view::npos)
            return no_vmlinux(name,
                              fmt::format("the name of symbol {} of {} does not end", i, count));
        if (length != 0)
            symbols.push_back(
                {rest.substr(0, length), symbol.st_value, type_of(elf, symbol), false});
    }
    return symbols;
}

} // namespace

Result<SymbolFile> SymbolFile::make(std::string name, std::vector<Symbol> symbols) {
    if (symbols.size() < min_symbols)
        return failf("{} has {} symbols; a kernel has thousands", name, symbols.size());
    size_t names = 0;
    std::optional<uint64_t> text;
    for (const Symbol& symbol : symbols) {
        names += symbol.name.size() + 1;
        if (symbol.name != "_text")
            continue;
        if (symbol.value < image_first || symbol.value - image_first >= image_reach ||
            text.value_or(symbol.value) != symbol.value)
            return failf("{} has _text at {:#x}{}: no kernel is linked so", name, symbol.value,
                         text ? fmt::format(" and {:#x}", *text) : std::string());
        text = symbol.value;
    }
    if (names > max_text)
        return failf("{} has more than {} MiB of names", name, max_text >> 20);
    if (!text)
        return failf("{} has no symbol _text: it is not of a Linux kernel", name);
    // KASLR moves the image as a whole. The rest are offsets in the per-CPU area and numbers.
    for (Symbol& symbol : symbols)
        symbol.absolute = symbol.value < *text || symbol.value - *text >= image_reach;
    auto all = Kallsyms::of(std::move(symbols), name);
    return SymbolFile(std::move(name), std::move(all), *text);
}

Result<SymbolFile> SymbolFile::parse_system_map(std::string_view text, const std::string& name) {
    std::vector<Symbol> symbols;
    for (size_t number = 1; !text.empty(); ++number) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        auto symbol = parse_line(line);
        if (!symbol)
            return failf("{} is no System.map: line {} is \"{}\"", name, number, printable(line));
        symbols.push_back(*symbol);
        if (symbols.size() > max_symbols)
            return failf("{} is no System.map: it has more than {} lines", name, max_symbols);
    }
    return make(name, std::move(symbols));
}

Result<SymbolFile> SymbolFile::read_system_map(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        return fail(Error::from_errno("open " + path));
    std::string text;
    std::vector<char> chunk(1 << 20);
    do {
        file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        text.append(chunk.data(), static_cast<size_t>(file.gcount()));
        if (text.size() > max_text)
            return failf("{} is no System.map: it has more than {} MiB", path, max_text >> 20);
    } while (file);
    if (!file.eof())
        return fail(Error::from_errno("read " + path));
    return parse_system_map(text, path);
}

Result<SymbolFile> SymbolFile::parse_vmlinux(std::span<const std::byte> file,
                                             const std::string& name) {
    elf_version(EV_CURRENT);
    // It is only read, whatever the type says.
    auto* bytes = const_cast<char*>(reinterpret_cast<const char*>(file.data()));
    ElfFile elf(elf_memory(bytes, file.size()));
    if (!elf)
        return no_vmlinux(name, elf_error());
    auto symbols = symbols_of(elf.get(), name);
    if (!symbols)
        return fail(symbols.error());
    return make(name, std::move(*symbols));
}

Result<SymbolFile> SymbolFile::read_vmlinux(const std::string& path) {
    elf_version(EV_CURRENT);
    int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(Error::from_errno("open " + path));
    auto close_file = [](const int* file) { ::close(*file); };
    std::unique_ptr<int, decltype(close_file)> closing(&fd, close_file);
    // With debugging information it is large: only what is asked for is read.
    ElfFile elf(elf_begin(fd, ELF_C_READ, nullptr));
    if (!elf)
        return no_vmlinux(path, elf_error());
    auto symbols = symbols_of(elf.get(), path);
    if (!symbols)
        return fail(symbols.error());
    return make(path, std::move(*symbols));
}

Kallsyms SymbolFile::at(Gva text) const {
    std::vector<Symbol> moved;
    moved.reserve(symbols_.size());
    for (size_t i = 0; i < symbols_.size(); ++i) {
        Symbol symbol = symbols_[i];
        if (!symbol.absolute)
            symbol.value += text.value - text_;
        moved.push_back(symbol);
    }
    return Kallsyms::of(std::move(moved), name_);
}

Status SymbolFile::check(const Kallsyms& own) const {
    auto text = own.address("_text");
    if (!text)
        return fail(text.error());
    size_t looked_at = 0;
    size_t found = 0;
    for (size_t i = 0; i < own.size(); ++i) {
        Symbol theirs = own[i];
        if (theirs.absolute || own.find_all(theirs.name).size() != 1)
            continue;
        ++looked_at;
        auto ours = symbols_.find_all(theirs.name);
        if (ours.size() != 1)
            continue;
        ++found;
        uint64_t there = theirs.value - text->value;
        uint64_t here = ours.front().value - text_;
        if (here != there)
            return of_another(name_,
                              fmt::format("{} is at _text+{:#x} in it, in the guest at _text+{:#x}",
                                          printable(theirs.name), here, there));
    }
    if (found < looked_at / 2)
        return of_another(name_, fmt::format("it names {} of its {} symbols", found, looked_at));
    return {};
}

Status prove_symbols(const PhysicalMemory& memory, const KernelImage& image, const CpuState& cpu,
                     const Kallsyms& symbols) {
    auto entry = symbols.address("entry_SYSCALL_64");
    auto table = symbols.address("sys_call_table");
    if (!entry || !table)
        return fail((entry ? table : entry).error());
    if (entry->value != cpu.lstar)
        return failf(
            "entry_SYSCALL_64 would be at {:#x}, but the guest's system-call entry (LSTAR) "
            "is {:#x}",
            entry->value, cpu.lstar);
    size_t size = symbols.next_address(*table).value_or(*table) - *table;
    std::vector<uint64_t> calls(std::min(size / sizeof(uint64_t), max_system_calls));
    if (calls.size() < min_system_calls)
        return failf("sys_call_table would have {} entries", calls.size());
    VirtualMemory kernel(image.tables(memory));
    if (auto status = kernel.read(*table, std::as_writable_bytes(std::span(calls))); !status)
        return fail(status.error().in("sys_call_table"));
    for (size_t nr = 0; nr < calls.size(); ++nr) {
        // Between its end and the next symbol may be padding.
        if (calls[nr] == 0 && nr >= min_system_calls)
            break;
        auto call = symbols.find_by_address(Gva(calls[nr]));
        if (!call || call->value != calls[nr] || !is_system_call(call->name))
            return failf("the guest's system call {} is at {:#x}, where no system call should be{}",
                         nr, calls[nr],
                         call ? fmt::format(" ({})", printable(call->name)) : std::string());
    }
    return {};
}

} // namespace shadowmon
