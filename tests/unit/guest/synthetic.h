// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/memory.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace shadowmon::test {

/// A little guest RAM from address 0, with an allocator for page tables.
class SmallMemory : public PhysicalMemory {
  public:
    explicit SmallMemory(uint64_t size);

    Status read(Gpa gpa, std::span<std::byte> out) const override;
    const std::vector<RamRange>& ram() const override { return ram_; }

    std::span<std::byte> bytes() { return {bytes_.get(), ram_[0].size}; }
    uint64_t& word(Gpa gpa);
    /// A zeroed page that was not handed out yet.
    Gpa new_page();

    /// Maps one page of 4 KiB (level 1), 2 MiB (2) or 1 GiB (3), making tables on the way.
    void map(Gpa root, unsigned levels, Gva gva, Gpa gpa, unsigned level, uint64_t flags);
    /// The entry of one level on the way to an address; tables must be there.
    uint64_t& entry(Gpa root, unsigned levels, Gva gva, unsigned level);

    mutable uint64_t reads = 0;

  private:
    struct Free {
        void operator()(void* bytes) const { std::free(bytes); }
    };
    std::unique_ptr<std::byte[], Free> bytes_; ///< zeroed, and untouched until used
    std::vector<RamRange> ram_;
    uint64_t next_ = 0x1000;
};

constexpr uint64_t Present = 1;
constexpr uint64_t Writable = 2;
constexpr uint64_t User = 4;
constexpr uint64_t LargePage = 1 << 7;
constexpr uint64_t NoExecute = uint64_t{1} << 63;

struct FakeSymbol {
    std::string name;
    char type;
    uint64_t value; ///< below 2 GiB: absolute
};

enum class TableOrder { Before64, Before64WithSeqs, Since64 };

/// Kallsyms tables as scripts/kallsyms.c lays them out, between some other bytes.
/// `text` is the relative base. Symbols must ascend by value.
std::vector<std::byte> make_kallsyms(const std::vector<FakeSymbol>& symbols, uint64_t text,
                                     TableOrder order, bool absolute_percpu = true);

/// Some hundred symbols: per-CPU ones, `_text`, `_stext`, functions, aliases, duplicates.
std::vector<FakeSymbol> fake_symbols(uint64_t text);

/// The same symbols as the files of a kernel name them.
std::string make_system_map(const std::vector<FakeSymbol>& symbols);
std::vector<std::byte> make_vmlinux(const std::vector<FakeSymbol>& symbols);

/// A BTF blob with the structs that KernelInfo asks for and some odd ones, from libbpf.
std::vector<std::byte> make_btf();

} // namespace shadowmon::test
