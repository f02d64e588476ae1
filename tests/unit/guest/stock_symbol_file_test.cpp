// SPDX-License-Identifier: GPL-2.0-or-later
//
// Symbols from a file for stock guests: as a check of their own kallsyms, and, with those
// overwritten, in their place. The file is made of what the guest says in /proc/kallsyms, moved
// back to where its kernel was linked. SM_GUEST_IMAGE names the folder.
#include "src/guest/kernel_info.h"

#include "tests/unit/guest/stock_guest.h"
#include "tests/unit/guest/synthetic.h"

#include <cstring>
#include <sstream>

namespace shadowmon::test {
namespace {

constexpr uint64_t linked_base = 0xffffffff81000000;

class StockSymbolFile : public StockGuest {
  protected:
    void SetUp() override {
        StockGuest::SetUp();
        if (!ready())
            return;
        uint64_t moved = kernel_->image.start.value - linked_base;
        ASSERT_NE(moved, 0u) << "KASLR is off";

        static const std::vector<FakeSymbol> linked = linked_symbols(moved);
        symbols_ = linked;
    }

    std::vector<FakeSymbol> linked_symbols(uint64_t moved) const {
        std::vector<FakeSymbol> symbols;
        std::istringstream lines(guest_->text("kallsyms"));
        for (std::string line; std::getline(lines, line) && line.find('[') == std::string::npos;) {
            FakeSymbol symbol{line.substr(19), line[17], std::stoull(line, nullptr, 16)};
            if (symbol.value >= kernel_->image.start.value)
                symbol.value -= moved;
            symbols.push_back(symbol);
        }
        return symbols;
    }

    SymbolFile system_map() const {
        auto file = SymbolFile::parse_system_map(make_system_map(symbols_), "System.map");
        EXPECT_TRUE(file) << file.error().message();
        return std::move(*file);
    }
    SymbolFile vmlinux() const {
        auto file = SymbolFile::parse_vmlinux(make_vmlinux(symbols_), "vmlinux");
        EXPECT_TRUE(file) << file.error().message();
        return std::move(*file);
    }

    /// The digits stand for themselves in the table of tokens, one after the other.
    void overwrite_kallsyms() {
        std::string wanted;
        for (char digit = '0'; digit <= '9'; ++digit)
            wanted += {digit, '\0'};
        size_t found = 0;
        for (const MappedRange& part : kernel_->image.parts) {
            std::string data(part.size, '\0');
            ASSERT_TRUE(memory_->read(part.gpa, std::as_writable_bytes(std::span(data))));
            for (size_t at = 0; (at = data.find(wanted, at)) != std::string::npos; ++at, ++found)
                memory_->fill(part.gpa + at, wanted.size(), 0);
        }
        ASSERT_GT(found, 0u);
    }

    std::string error(const SymbolFile* file) const {
        auto info = inspect_kernel(*memory_, cpu_, file);
        return info ? "none" : info.error().message();
    }

    std::vector<FakeSymbol> symbols_;
};

TEST_F(StockSymbolFile, AgreesWithTheGuest) {
    SymbolFile map = system_map(), elf = vmlinux();
    EXPECT_EQ(map.size(), kernel_->symbols.size());
    for (const SymbolFile* file : {&map, &elf}) {
        auto info = inspect_kernel(*memory_, cpu_, file);
        ASSERT_TRUE(info) << info.error().message();
        EXPECT_EQ(info->symbols.source(), "kallsyms");
    }
}

TEST_F(StockSymbolFile, StandsInForKallsyms) {
    SymbolFile map = system_map(), elf = vmlinux();
    overwrite_kallsyms();
    std::string without = error(nullptr);
    EXPECT_NE(without.find("System.map or vmlinux of this kernel can stand in"), std::string::npos)
        << without;
    for (const SymbolFile* file : {&map, &elf}) {
        auto info = inspect_kernel(*memory_, cpu_, file);
        ASSERT_TRUE(info) << info.error().message();
        EXPECT_EQ(info->symbols.source(), file->name());
        EXPECT_EQ(info->banner, kernel_->banner);
        EXPECT_EQ(info->idt_gpa, kernel_->idt_gpa);
        EXPECT_EQ(info->level3_kernel_gpa, kernel_->level3_kernel_gpa);
        EXPECT_EQ(std::memcmp(&info->offsets, &kernel_->offsets, sizeof(sm_offsets)), 0);
        ASSERT_EQ(info->symbols.size(), kernel_->symbols.size());
        for (size_t i = 0; i < info->symbols.size(); ++i) {
            ASSERT_EQ(info->symbols[i].name, kernel_->symbols[i].name);
            ASSERT_EQ(info->symbols[i].value, kernel_->symbols[i].value);
        }
    }
}

/// A kernel built a little differently: from some function on all text is elsewhere. What is
/// looked for first (system-call entry, IDT, page tables) lies in sections of its own and
/// has not moved.
TEST_F(StockSymbolFile, OfAnotherBuildIsRefused) {
    const uint64_t from = linked_base + 0x400000;
    const uint64_t end =
        kernel_->symbols.address("_etext")->value - kernel_->image.start.value + linked_base;
    const uint64_t entry = kernel_->symbols.address("entry_SYSCALL_64")->value -
                           kernel_->image.start.value + linked_base;
    for (FakeSymbol& symbol : symbols_)
        if (symbol.value >= from && symbol.value < std::min(entry & ~uint64_t{0xfff}, end))
            symbol.value += 0x10;
    SymbolFile other = system_map();
    std::string message = error(&other);
    EXPECT_NE(message.find("System.map is not of the guest's kernel: "), std::string::npos)
        << message;
    overwrite_kallsyms();
    message = error(&other);
    EXPECT_NE(message.find("and System.map is not of its kernel: the guest's system call"),
              std::string::npos)
        << message;
}

TEST_F(StockSymbolFile, WithAnotherEntryIsRefused) {
    for (FakeSymbol& symbol : symbols_)
        if (symbol.name == "entry_SYSCALL_64")
            symbol.value += 0x40;
    SymbolFile other = system_map();
    overwrite_kallsyms();
    std::string message = error(&other);
    EXPECT_NE(message.find("entry_SYSCALL_64 would be at"), std::string::npos) << message;
}

/// The guest's table of system calls is the guest's: anything may be in it.
TEST_F(StockSymbolFile, HostileTableOfSystemCalls) {
    SymbolFile map = system_map();
    overwrite_kallsyms();
    auto table = kernel_->to_gpa(*kernel_->symbols.address("sys_call_table"));
    ASSERT_TRUE(table);
    memory_->fill(*table, 8, 0);
    EXPECT_NE(error(&map).find("system call 0 is at 0x0"), std::string::npos) << error(&map);
    memory_->fill(*table, 8, 0xff);
    EXPECT_NE(error(&map).find("system call 0 is at 0xffffffffffffffff"), std::string::npos)
        << error(&map);
}

} // namespace
} // namespace shadowmon::test
