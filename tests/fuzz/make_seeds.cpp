// SPDX-License-Identifier: GPL-2.0-or-later
//
// make_seeds FOLDER: writes seeds for the fuzz targets, small and well-formed, from the
// guest image that SM_GUEST_IMAGE names: its page tables, some of its symbols, the
// beginning of its type information.
#include "src/guest/kernel_info.h"
#include "tests/fuzz/idt_input.h"
#include "tests/fuzz/page_walk_input.h"
#include "tests/unit/guest/image_file.h"
#include "tests/unit/guest/synthetic.h"

#include <linux/btf.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

using namespace shadowmon;
using namespace shadowmon::test;

namespace {

void save(const std::filesystem::path& path, std::span<const std::byte> bytes) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    if (!file)
        throw std::runtime_error("cannot write " + path.string());
}

/// The tables on the way to some addresses, moved together into little RAM; leaves of the
/// image lead to 2 MiB, of the direct map to its beginning.
class SmallTables {
  public:
    SmallTables(const PhysicalMemory& memory, const KernelImage& image)
        : memory_(memory), image_(image) {}

    uint64_t add(Gpa table, unsigned level, Gva gva) {
        auto [found, fresh] = moved_.try_emplace(table.value, next_);
        if (fresh)
            next_ += 0x1000;
        uint64_t to = found->second;
        unsigned index = (gva.value >> (12 + 9 * (level - 1))) & 511;
        uint64_t entry = 0;
        if (!memory_.read(table + 8 * index, std::as_writable_bytes(std::span(&entry, 1))))
            return to;
        constexpr uint64_t address_bits = 0x000ffffffffff000;
        bool leaf = level == 1 || (level < 4 && (entry & LargePage));
        uint64_t below = 0;
        if (!leaf && (entry & Present))
            below = add(Gpa(entry & address_bits), level - 1, gva);
        else if (image_.contains(gva))
            below = ((entry & address_bits) - image_.gpa.value + (2 << 20)) & (FuzzRam - 1);
        else
            below = (entry & address_bits) % FuzzRam;
        entries_.push_back({(to + 8 * index) / 8, (entry & ~address_bits) | below});
        return to;
    }

    const std::vector<EntryInput>& entries() const { return entries_; }

  private:
    const PhysicalMemory& memory_;
    const KernelImage& image_;
    std::map<uint64_t, uint64_t> moved_;
    uint64_t next_ = 0x2000;
    std::vector<EntryInput> entries_;
};

void save_page_tables(const std::filesystem::path& folder, const ImageFile& memory,
                      const KernelImage& image, const CpuState& cpu) {
    SmallTables tables(memory, image);
    CpuInput head{0, cpu.lstar, image.start.value, 4 << 20, image.levels == 5};
    head.cr3 = tables.add(image.page_tables, image.levels, Gva(cpu.lstar));
    for (const MappedRange& part : image.parts)
        tables.add(image.page_tables, image.levels, part.start);
    for (uint64_t at = 0; at < FuzzRam; at += 1 << 20)
        tables.add(image.page_tables, image.levels, image.direct_map + at);
    std::vector<std::byte> bytes(sizeof(head) + tables.entries().size() * sizeof(EntryInput));
    std::memcpy(bytes.data(), &head, sizeof(head));
    std::memcpy(bytes.data() + sizeof(head), tables.entries().data(), bytes.size() - sizeof(head));
    save(folder / "page_walk" / "stock", bytes);
}

/// Tables with which the whole search for the kernel succeeds.
void save_made_tables(const std::filesystem::path& folder, unsigned levels) {
    SmallMemory memory(FuzzRam);
    Gpa root = memory.new_page();
    Gva text(0xffffffff81000000);
    Gva direct_map(levels == 5 ? 0xff11000000000000 : 0xffff888000000000);
    memory.map(root, levels, text, Gpa(2 << 20), 2, 0);
    memory.map(root, levels, text + (2 << 20), Gpa(4 << 20), 2, NoExecute | Writable);
    for (uint64_t at = 0; at < FuzzRam; at += 2 << 20)
        memory.map(root, levels, direct_map + at, Gpa(at), 2, NoExecute | Writable);
    CpuInput head{root.value, text.value + 0x40, direct_map.value, FuzzRam, levels == 5};
    std::vector<EntryInput> entries;
    for (uint64_t slot = 0; slot < FuzzRam / 8; ++slot)
        if (memory.word(Gpa(8 * slot)))
            entries.push_back({slot, memory.word(Gpa(8 * slot))});
    CpuState cpu;
    cpu.cr0 = 0x80000001;
    cpu.cr3 = head.cr3;
    cpu.cr4 = levels == 5 ? 1 << 12 : 0;
    cpu.efer = 0x501;
    cpu.lstar = head.lstar;
    if (auto image = find_kernel_image(memory, cpu); !image)
        throw std::runtime_error("no kernel in the seed: " + image.error().message());
    std::vector<std::byte> bytes(sizeof(head) + entries.size() * sizeof(EntryInput));
    std::memcpy(bytes.data(), &head, sizeof(head));
    std::memcpy(bytes.data() + sizeof(head), entries.data(), bytes.size() - sizeof(head));
    save(folder / "page_walk" / fmt::format("made{}", levels), bytes);
}

void save_symbols(const std::filesystem::path& folder, const Kallsyms& symbols) {
    constexpr uint64_t text_base = 0xffffffff81000000;
    uint64_t text = symbols.address("_text")->value;
    std::vector<FakeSymbol> some;
    for (size_t i = 0; i < symbols.size() && some.size() < 320; ++i) {
        Symbol symbol = symbols[i];
        bool wanted = i % 257 == 0 || symbol.name == "_text" || symbol.name == "_stext";
        if (wanted)
            some.push_back({std::string(symbol.name), symbol.type,
                            symbol.absolute ? symbol.value : symbol.value - text + text_base});
    }
    unsigned number = 0;
    for (TableOrder order :
         {TableOrder::Before64, TableOrder::Before64WithSeqs, TableOrder::Since64}) {
        auto bytes = make_kallsyms(some, text_base, order);
        bytes.insert(bytes.begin(), std::byte{0});
        save(folder / "kallsyms" / fmt::format("stock{}", number), bytes);
        save(folder / "kallsyms" / fmt::format("changed{}", number),
             std::vector<std::byte>{std::byte(2 * number + 1), {}, {}, {}});
        ++number;
    }
    auto save_file = [&](const char* name, std::byte kind, std::span<const std::byte> file) {
        std::vector<std::byte> bytes{kind};
        bytes.insert(bytes.end(), file.begin(), file.end());
        save(folder / "symbol_file" / name, bytes);
    };
    const std::string map = make_system_map(some);
    save_file("system_map", std::byte{0}, std::as_bytes(std::span(map)));
    save_file("vmlinux", std::byte{1}, make_vmlinux(some));
}

/// The first types, with what they refer to beyond them made void, and the first names.
void save_btf(const std::filesystem::path& folder, const std::string& blob) {
    constexpr uint32_t type_bytes = 3000;
    constexpr uint32_t string_bytes = 2000;
    btf_header header{};
    std::memcpy(&header, blob.data(), sizeof(header));
    std::string strings = blob.substr(header.hdr_len + header.str_off, string_bytes - 1) + '\0';
    std::vector<uint32_t> words(type_bytes / 4);
    std::memcpy(words.data(), blob.data() + header.hdr_len + header.type_off, type_bytes);
    size_t end = 0;
    for (size_t at = 0; at + 3 < words.size();) {
        uint32_t kind = BTF_INFO_KIND(words[at + 1]);
        uint32_t vlen = BTF_INFO_VLEN(words[at + 1]);
        size_t fixed = 0;
        size_t element = 0;
        if (kind == BTF_KIND_INT || kind == BTF_KIND_VAR || kind == BTF_KIND_DECL_TAG)
            fixed = 1;
        else if (kind == BTF_KIND_ARRAY)
            fixed = 3;
        else if (kind == BTF_KIND_ENUM || kind == BTF_KIND_FUNC_PROTO)
            element = 2;
        else if (kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION || kind == BTF_KIND_ENUM64 ||
                 kind == BTF_KIND_DATASEC)
            element = 3;
        size_t next = at + 3 + fixed + element * vlen;
        if (next > words.size())
            break;
        auto name = [&](size_t word) {
            words[word] = words[word] < string_bytes ? words[word] : 0;
        };
        auto type = [&](size_t word) { words[word] = 0; };
        name(at);
        bool sized = kind == BTF_KIND_INT || kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION ||
                     kind == BTF_KIND_ENUM || kind == BTF_KIND_ENUM64;
        if (!sized)
            type(at + 2);
        if (kind == BTF_KIND_ARRAY) {
            type(at + 3);
            type(at + 4);
        }
        for (uint32_t i = 0; i < vlen && element; ++i) {
            name(at + 3 + i * element);
            if (kind != BTF_KIND_ENUM && kind != BTF_KIND_ENUM64)
                type(at + 3 + i * element + 1);
        }
        at = end = next;
    }
    header.hdr_len = sizeof(header);
    header.type_off = 0;
    header.type_len = header.str_off = static_cast<uint32_t>(4 * end);
    header.str_len = static_cast<uint32_t>(strings.size());
    std::vector<std::byte> bytes(sizeof(header) + 4 * end + strings.size());
    std::memcpy(bytes.data(), &header, sizeof(header));
    std::memcpy(bytes.data() + sizeof(header), words.data(), 4 * end);
    std::memcpy(bytes.data() + sizeof(header) + 4 * end, strings.data(), strings.size());
    auto valid = validate_btf(bytes);
    if (!valid)
        throw std::runtime_error("the BTF seed is not valid: " + valid.error().message());
    save(folder / "btf" / "stock", bytes);
    save(folder / "btf" / "made", make_btf());
}

void save_modules(const std::filesystem::path& folder) {
    for (uint8_t kind : {0, 1})
        save(folder / "modules" / fmt::format("made{}", kind),
             std::vector<std::byte>{std::byte{kind}});
}

/// Code of the input: a call or jump from one offset to another.
void put_branch(std::vector<std::byte>& code, size_t at, uint8_t opcode, size_t to) {
    code[at] = std::byte{opcode};
    auto distance = static_cast<int32_t>(static_cast<int64_t>(to) - static_cast<int64_t>(at) - 5);
    std::memcpy(&code[at + 1], &distance, sizeof(distance));
}

/// Two vectors whose handler is called between irq_enter_rcu and irq_exit_rcu, and one whose
/// handler is within its function.
void save_idt(const std::filesystem::path& folder) {
    constexpr uint8_t call_rel32 = 0xe8, jump_rel32 = 0xe9, interrupt_gate = 0x8e;
    constexpr size_t entry = 0, other_entry = 32, common = 64, bracketed = 128, inlined = 192,
                     enter = 256, exit = 320, enter_rcu = 384, exit_rcu = 448, handler_at = 512;
    std::vector<std::byte> code(576, std::byte{0xcc});
    put_branch(code, entry, jump_rel32, common);
    put_branch(code, common, call_rel32, bracketed);
    put_branch(code, other_entry, call_rel32, inlined);
    size_t at = bracketed;
    for (size_t to : {enter, enter_rcu, handler_at, exit_rcu}) {
        put_branch(code, at, call_rel32, to);
        at += 5;
    }
    put_branch(code, at, jump_rel32, exit);
    put_branch(code, inlined, call_rel32, enter);
    put_branch(code, inlined + 5, call_rel32, handler_at);
    put_branch(code, inlined + 10, jump_rel32, exit);
    IdtInput input{bracketed, enter, exit, enter_rcu, exit_rcu, {}};
    for (unsigned i = 0; i < 3; i++)
        input.gate[i] = {static_cast<uint16_t>(i < 2 ? entry : other_entry), interrupt_gate, 0};
    std::vector<std::byte> bytes(sizeof(input));
    std::memcpy(bytes.data(), &input, sizeof(input));
    bytes.insert(bytes.end(), code.begin(), code.end());
    save(folder / "idt" / "made", bytes);
}

} // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 2 || GuestImage::folder().empty())
            throw std::runtime_error("usage: SM_GUEST_IMAGE=... make_seeds FOLDER");
        GuestImage guest(GuestImage::folder());
        ImageFile memory(guest.path("idle.mem"));
        CpuState cpu = guest.cpus("idle")[0];
        auto info = inspect_kernel(memory, cpu);
        if (!info)
            throw std::runtime_error(info.error().message());
        save_page_tables(argv[1], memory, info->image, cpu);
        save_made_tables(argv[1], 4);
        save_made_tables(argv[1], 5);
        save_symbols(argv[1], info->symbols);
        save_btf(argv[1], guest.text("btf"));
        save_modules(argv[1]);
        save_idt(argv[1]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "make_seeds: %s\n", error.what());
        return 1;
    }
    return 0;
}
