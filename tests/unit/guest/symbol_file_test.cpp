// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/symbol_file.h"

#include "tests/unit/guest/synthetic.h"

#include <gtest/gtest.h>

#include <cstring>
#include <elf.h>
#include <fstream>
#include <random>
#include <unistd.h>

namespace shadowmon::test {
namespace {

constexpr uint64_t linked_base = 0xffffffff81000000;
constexpr uint64_t running_base = 0xffffffff9a600000;

enum class Kind { SystemMap, Vmlinux };

Result<SymbolFile> parse(Kind kind, const std::vector<FakeSymbol>& symbols) {
    if (kind == Kind::SystemMap)
        return SymbolFile::parse_system_map(make_system_map(symbols), "the file");
    return SymbolFile::parse_vmlinux(make_vmlinux(symbols), "the file");
}

Kallsyms running() {
    auto symbols = Kallsyms::parse(
        make_kallsyms(fake_symbols(running_base), running_base, TableOrder::Since64),
        Gva(running_base));
    EXPECT_TRUE(symbols);
    return std::move(*symbols);
}

class Symbols : public testing::TestWithParam<Kind> {};

TEST_P(Symbols, AreThoseOfTheRunningKernel) {
    auto file = parse(GetParam(), fake_symbols(linked_base));
    ASSERT_TRUE(file) << file.error().message();
    Kallsyms moved = file->at(Gva(running_base));
    Kallsyms own = running();
    ASSERT_EQ(moved.size(), own.size());
    for (size_t i = 0; i < own.size(); ++i) {
        EXPECT_EQ(moved[i].name, own[i].name);
        EXPECT_EQ(moved[i].value, own[i].value);
        EXPECT_EQ(moved[i].absolute, own[i].absolute) << own[i].name;
        EXPECT_EQ(std::islower(moved[i].type), std::islower(own[i].type));
    }
    EXPECT_EQ(moved.address("_stext")->value, running_base);
    EXPECT_EQ(*moved.percpu_offset("current_task"), 0x1fb80u);
    auto missing = moved.address("missing");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().message(), "the file: this kernel has no symbol missing");
    auto status = file->check(own);
    EXPECT_TRUE(status) << status.error().message();
}

TEST_P(Symbols, ComeInAnyOrder) {
    auto symbols = fake_symbols(linked_base);
    std::shuffle(symbols.begin(), symbols.end(), std::mt19937(1));
    auto file = parse(GetParam(), symbols);
    ASSERT_TRUE(file) << file.error().message();
    Kallsyms moved = file->at(Gva(running_base));
    for (size_t i = 1; i < moved.size(); ++i)
        EXPECT_LE(moved[i - 1].value, moved[i].value);
    EXPECT_EQ(moved.next_address(Gva(running_base + 0x10000))->value, running_base + 0x10040);
}

/// Addresses far above the image are fixed, and so are numbers.
TEST_P(Symbols, OutsideTheImageAreNotMoved) {
    auto symbols = fake_symbols(linked_base);
    symbols.push_back({"vsyscall_page", 'A', 0xffffffffff600000});
    symbols.push_back({"number", 'A', 0x1000000});
    auto file = parse(GetParam(), symbols);
    ASSERT_TRUE(file) << file.error().message();
    Kallsyms moved = file->at(Gva(running_base));
    EXPECT_EQ(moved.find("vsyscall_page")->value, 0xffffffffff600000);
    EXPECT_TRUE(moved.find("vsyscall_page")->absolute);
    EXPECT_EQ(moved.find("number")->value, 0x1000000u);
}

TEST_P(Symbols, OfAnotherKernelAreRefused) {
    auto symbols = fake_symbols(linked_base);
    for (FakeSymbol& symbol : symbols)
        if (symbol.name == "function_number_123")
            symbol.value += 0x10;
    auto other = parse(GetParam(), symbols);
    ASSERT_TRUE(other) << other.error().message();
    auto status = other->check(running());
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().message(),
              "the file is not of the guest's kernel: function_number_123 is at _text+0xfb0 in it, "
              "in the guest at _text+0xfa0");

    // None of its names is the guest's, so none differs.
    for (FakeSymbol& symbol : symbols)
        if (symbol.name != "_text")
            symbol.name += "_";
    auto strange = parse(GetParam(), symbols);
    ASSERT_TRUE(strange) << strange.error().message();
    status = strange->check(running());
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message().find("it names 1 of its "), std::string::npos)
        << status.error().message();
}

TEST_P(Symbols, HaveToBeOfAKernel) {
    auto symbols = fake_symbols(linked_base);
    std::erase_if(symbols, [](const FakeSymbol& symbol) { return symbol.name == "_text"; });
    auto no_text = parse(GetParam(), symbols);
    ASSERT_FALSE(no_text);
    EXPECT_NE(no_text.error().message().find("no symbol _text"), std::string::npos);
    for (uint64_t text : {uint64_t{0}, linked_base - 0x2000000, linked_base + 0x80000000}) {
        symbols.push_back({"_text", 'T', text});
        auto odd = parse(GetParam(), symbols);
        ASSERT_FALSE(odd);
        EXPECT_NE(odd.error().message().find("no kernel is linked so"), std::string::npos)
            << odd.error().message();
        symbols.back().value = linked_base;
        EXPECT_TRUE(parse(GetParam(), symbols));
        symbols.push_back({"_text", 'T', linked_base + 0x1000});
        EXPECT_FALSE(parse(GetParam(), symbols)) << "two of them";
        symbols.resize(symbols.size() - 2);
    }
    symbols.resize(100);
    auto few = parse(GetParam(), symbols);
    ASSERT_FALSE(few);
    EXPECT_NE(few.error().message().find("100 symbols"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Symbols, testing::Values(Kind::SystemMap, Kind::Vmlinux),
                         [](const auto& info) {
                             return info.param == Kind::SystemMap ? "SystemMap" : "Vmlinux";
                         });

TEST(SystemMap, BadLinesAreShown) {
    const std::string good = make_system_map(fake_symbols(linked_base));
    const std::pair<const char*, const char*> cases[] = {
        // What Debian's package of a kernel has in the file's place.
        {"ffffffffffffffff B The real System.map is in the linux-image-x-dbg package\n",
         "line 1 is \"ffffffffffffffff B The real"},
        {"\n", "line 1 is \"\""},
        {"nonsense\n", "line 1 is \"nonsense\""},
        {"ffffffff81000000\n", "line 1"},
        {"ffffffff81000000 T\n", "line 1"},
        {"ffffffff81000000 T \n", "line 1"},
        {"ffffffff81000000 TT x\n", "line 1"},
        {"1ffffffff81000000 T x\n", "line 1"},
        {"-1 T x\n", "line 1"},
        {"ffffffff81000000 T x\t[module]\n", "line 1"},
        {"\x1b[2J T x\n", "line 1 is \"?[2J T x\""},
    };
    for (const auto& [line, text] : cases) {
        auto file = SymbolFile::parse_system_map(line + good, "System.map");
        ASSERT_FALSE(file) << line;
        EXPECT_NE(file.error().message().find(text), std::string::npos) << file.error().message();
    }
    std::string long_name = "ffffffff81000000 T " + std::string(600, 'x') + "\n";
    EXPECT_FALSE(SymbolFile::parse_system_map(good + long_name, "System.map"));
    EXPECT_FALSE(SymbolFile::parse_system_map("", "System.map"));
    // The last line may lack its end; a file cut in the middle of a line may not.
    EXPECT_TRUE(
        SymbolFile::parse_system_map(std::string_view(good).substr(0, good.size() - 1), "x"));
    EXPECT_FALSE(
        SymbolFile::parse_system_map(std::string_view(good).substr(0, good.size() - 6), "x"));
}

/// Every field of header, section headers and symbols, changed by itself; and every cut.
TEST(Vmlinux, SurvivesCorruption) {
    const auto good = make_vmlinux(fake_symbols(linked_base));
    std::mt19937 random(1);
    for (size_t at = 0; at < good.size(); at += at < 600 ? 1 : 61) {
        for (unsigned value : {0x00u, 0x01u, 0x7fu, 0xffu, static_cast<unsigned>(random() & 255)}) {
            auto bad = good;
            bad[at] = std::byte(value);
            auto file = SymbolFile::parse_vmlinux(bad, "vmlinux");
            EXPECT_TRUE(file || file.error().message().find("vmlinux") == 0)
                << file.error().message();
        }
    }
    for (size_t size = 0; size < good.size(); size += 37) {
        auto cut = good;
        cut.resize(size);
        auto file = SymbolFile::parse_vmlinux(cut, "vmlinux");
        ASSERT_FALSE(file) << size;
        EXPECT_EQ(file.error().message().find("vmlinux"), 0u) << file.error().message();
    }
}

TEST(Vmlinux, OthersAreToldApart) {
    auto error = [](const std::vector<std::byte>& file) {
        auto parsed = SymbolFile::parse_vmlinux(file, "vmlinux");
        return parsed ? "parsed" : parsed.error().message();
    };
    auto good = make_vmlinux(fake_symbols(linked_base));
    EXPECT_EQ(error(good), "parsed");
    EXPECT_NE(error({}).find("is no vmlinux"), std::string::npos);
    EXPECT_NE(error(std::vector<std::byte>(4096)).find("no ELF file"), std::string::npos);

    auto header = [&](auto change) {
        auto bytes = good;
        Elf64_Ehdr ehdr;
        std::memcpy(&ehdr, bytes.data(), sizeof(ehdr));
        change(ehdr);
        std::memcpy(bytes.data(), &ehdr, sizeof(ehdr));
        return error(bytes);
    };
    EXPECT_NE(header([](Elf64_Ehdr& h) { h.e_machine = EM_AARCH64; }).find("not for x86-64"),
              std::string::npos);
    EXPECT_NE(header([](Elf64_Ehdr& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }).find("not for"),
              std::string::npos);
    EXPECT_NE(header([](Elf64_Ehdr& h) { h.e_ident[EI_DATA] = ELFDATA2MSB; }).find("not for"),
              std::string::npos);
    EXPECT_NE(header([](Elf64_Ehdr& h) { h.e_shnum = 3; }).find("stripped"), std::string::npos);

    auto symbols = [&](auto change) {
        auto bytes = good;
        Elf64_Shdr shdr;
        auto* at = bytes.data() + sizeof(Elf64_Ehdr) + 3 * sizeof(shdr);
        std::memcpy(&shdr, at, sizeof(shdr));
        change(shdr);
        std::memcpy(at, &shdr, sizeof(shdr));
        return error(bytes);
    };
    EXPECT_NE(symbols([](Elf64_Shdr& h) { h.sh_link = 77; }).find("cannot be read"),
              std::string::npos);
    EXPECT_NE(symbols([](Elf64_Shdr& h) { h.sh_link = 3; }), "parsed");
    EXPECT_NE(symbols([](Elf64_Shdr& h) { h.sh_size = ~uint64_t{0}; }), "parsed");
    EXPECT_NE(symbols([](Elf64_Shdr& h) { h.sh_offset = uint64_t{1} << 62; }), "parsed");
}

TEST(Files, AreRead) {
    std::string path = testing::TempDir() + "symbol_file_test." + std::to_string(getpid());
    auto symbols = fake_symbols(linked_base);
    std::ofstream(path) << make_system_map(symbols);
    auto map = SymbolFile::read_system_map(path);
    ASSERT_TRUE(map) << map.error().message();
    EXPECT_EQ(map->size(), symbols.size());
    EXPECT_EQ(map->name(), path);

    auto elf = make_vmlinux(symbols);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()), static_cast<std::streamsize>(elf.size()));
    auto vmlinux = SymbolFile::read_vmlinux(path);
    ASSERT_TRUE(vmlinux) << vmlinux.error().message();
    EXPECT_EQ(vmlinux->size(), symbols.size());
    unlink(path.c_str());

    for (const char* bad : {"/nowhere/file", "/"}) {
        for (auto read : {SymbolFile::read_system_map, SymbolFile::read_vmlinux}) {
            auto file = read(bad);
            ASSERT_FALSE(file);
            EXPECT_NE(file.error().message().find(bad), std::string::npos)
                << file.error().message();
        }
    }
    auto endless = SymbolFile::read_system_map("/dev/zero");
    ASSERT_FALSE(endless);
    EXPECT_NE(endless.error().message().find("more than 128 MiB"), std::string::npos);
}

} // namespace
} // namespace shadowmon::test
