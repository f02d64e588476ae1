// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/modules.h"

#include "tests/unit/guest/made_modules.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

namespace shadowmon::test {
namespace {

using State = GuestModule::State;

class Modules : public testing::TestWithParam<ModuleSeries> {
  protected:
    void SetUp() override {
        made_.add("brd");
        made_.add("null_blk", State::going);
        made_.add("loop");
    }
    /// One problem that says so, and these modules.
    void expect(const std::string& problem, const std::vector<std::string>& names) {
        GuestModules read = made_.read();
        ASSERT_EQ(read.problems.size(), 1u);
        EXPECT_NE(read.problems[0].find(problem), std::string::npos) << read.problems[0];
        std::vector<std::string> found;
        for (const GuestModule& module : read.modules)
            found.push_back(module.name);
        EXPECT_EQ(found, names) << read.problems[0];
    }
    Result<ModuleSymbols> symbols() {
        return read_module_symbols(made_.memory(), made_.layout, made_.read().modules[0]);
    }
    void expect_no_symbols(const std::string& why) {
        auto found = symbols();
        ASSERT_FALSE(found) << why;
        EXPECT_NE(found.error().message().find("symbols of module brd"), std::string::npos)
            << found.error().message();
        EXPECT_NE(found.error().message().find(why), std::string::npos) << found.error().message();
    }
    Gva field(size_t module, uint32_t offset) { return made_.object_of(module) + offset; }
    uint32_t text_size() { return made_.layout.parts[0].size; }

    MadeModules made_{GetParam()};
};

TEST_P(Modules, AreReadInTheirOrder) {
    GuestModules read = made_.read();
    EXPECT_TRUE(read.problems.empty()) << read.problems[0];
    ASSERT_EQ(read.modules.size(), 3u);
    const GuestModule& brd = read.modules[0];
    EXPECT_EQ(brd.name, "brd");
    EXPECT_EQ(brd.state, State::live);
    EXPECT_EQ(brd.object, made_.object_of(0));
    EXPECT_EQ(brd.text.start, made_.start(0));
    EXPECT_EQ(brd.text.size, MadeModules::text_size);
    EXPECT_TRUE(brd.contains(made_.start(0) + MadeModules::end - 1));
    EXPECT_FALSE(brd.contains(made_.start(0) + MadeModules::end));
    EXPECT_EQ(read.modules[1].state, State::going);
    EXPECT_EQ(read.find("null-blk"), &read.modules[1]) << "as modprobe has it";
    EXPECT_FALSE(read.find("null"));
    EXPECT_EQ(read.around(made_.start(2) + 5), &read.modules[2]);
    EXPECT_FALSE(read.around(made_.start(2) + MadeModules::text_size)) << "no code";
}

TEST_P(Modules, AreTheSameOnlyWhereTheyWere) {
    GuestModule brd = made_.read().modules[0], going = made_.read().modules[1];
    EXPECT_TRUE(still_loaded(made_.read(), brd));
    EXPECT_FALSE(still_loaded(made_.read(), going));
    made_.write(field(0, made_.layout.state), uint32_t{2});
    EXPECT_FALSE(still_loaded(made_.read(), brd)) << "it is on its way out";
    made_.write(field(0, made_.layout.state), uint32_t{0});
    made_.put(field(0, made_.layout.name), "brb", 4);
    EXPECT_FALSE(still_loaded(made_.read(), brd)) << "another one is there";
    made_.put(field(0, made_.layout.name), "brd", 4);
    made_.write(field(0, text_size()), uint32_t{0x1000});
    EXPECT_FALSE(still_loaded(made_.read(), brd));
}

TEST_P(Modules, SymbolsAreItsOwn) {
    auto found = symbols();
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_EQ(found->symbols.size(), 3u) << "neither the first, empty one, nor the kernel's";
    EXPECT_EQ(*found->symbols.address("brd_first"), made_.start(0));
    EXPECT_EQ(found->symbols.find("brd_first")->type, 'T');
    EXPECT_EQ(found->symbols.find_by_address(made_.start(0) + 0x50)->name, "brd_second");
    EXPECT_FALSE(found->symbols.find("vfs_read"));
    EXPECT_EQ(found->ends, (std::vector<Gva>{made_.start(0) + 0x30, made_.start(0) + 0x60}));
}

TEST_P(Modules, ListThatIsBrokenEndsThere) {
    made_.write(field(1, made_.layout.list), uint64_t{0x4000});
    expect("the list of modules: 0x3", {"brd", "null_blk"});
    made_.write(field(1, made_.layout.list), (made_.object_of(0) + made_.layout.list).value);
    expect("the list of modules leads back to", {"brd", "null_blk"});
    made_.write(MadeModules::head, uint64_t{8});
    expect("the list of modules: 0x", {});
}

TEST_P(Modules, EndlessListIsCut) {
    // All of a page is one element after the other, each a module without a name.
    VirtualMemory memory = made_.memory();
    Gva first = MadeModules::head + 0x80000;
    for (uint64_t i = 0; i < 8192; i++)
        made_.write(first + 32 * i + made_.layout.list,
                    (first + 32 * (i + 1) + made_.layout.list).value);
    made_.write(MadeModules::head, (first + made_.layout.list).value);
    GuestModules read = made_.read();
    EXPECT_EQ(read.modules.size() + read.problems.size(), 4097u);
    EXPECT_EQ(read.problems.back(), "the list of modules does not end after 4096");
}

TEST_P(Modules, OneThatIsBrokenHidesNoOther) {
    made_.put(field(1, made_.layout.name), std::string(56, 'x').c_str(), 56);
    expect("is left out: its name does not end within 56 bytes", {"brd", "loop"});
    made_.put(field(1, made_.layout.name), "nu:l*", 6);
    expect("bytes that no module's name has", {"brd", "loop"});
    made_.put(field(1, made_.layout.name), "", 1);
    expect("it has no name", {"brd", "loop"});
    made_.put(field(1, made_.layout.name), "null_blk", 9);
    made_.write(field(1, text_size()), uint32_t{0xffffffff});
    expect("null_blk: its code is said to be 0xffffffff bytes", {"brd", "loop"});
    made_.write(field(1, text_size()), uint32_t{0x1000});
    uint32_t base = made_.layout.parts[0].base;
    made_.write(field(1, base), uint64_t{0xffffffffc0010008});
    expect("null_blk: its", {"brd", "loop"});
    for (uint64_t low : {0x1000ull, 0xffff888000000000ull, 0xffffffff7ffff000ull}) {
        made_.write(field(1, base), low);
        expect("is not where modules are", {"brd", "loop"});
    }
    made_.write(field(1, base), ~uint64_t{0xfff});
    expect("null_blk: its", {"brd", "loop"});
    made_.write(field(1, base), made_.start(1).value);
    made_.write(field(1, made_.layout.ftrace.count), uint32_t{2 << 20});
    expect("null_blk: it has 2097152 places of ftrace", {"brd", "loop"});
}

TEST_P(Modules, HostileSymbols) {
    Gva kallsyms = made_.start(0) + MadeModules::kallsyms;
    made_.write(kallsyms + made_.layout.symbol_count, uint32_t{1} << 31);
    expect_no_symbols("it has 2147483648 of them");
    made_.write(kallsyms + made_.layout.symbol_count, uint32_t{200'000});
    expect_no_symbols("page");
    made_.write(kallsyms + made_.layout.symbol_count, uint32_t{5});
    made_.write(kallsyms + made_.layout.types, uint64_t{0x10});
    expect_no_symbols("their types");
    made_.write(kallsyms + made_.layout.types, (made_.start(0) + MadeModules::types).value);
    Gva second = made_.start(0) + MadeModules::symtab + 24;
    made_.write(second, uint32_t{0x7fffffff});
    expect_no_symbols("the name of number 1");
    // A name that begins where only names are, and does not end.
    Gva names = made_.start(0) + MadeModules::names;
    std::string endless(1024, 'n');
    made_.put(names + 0x800, endless.data(), endless.size());
    made_.write(second, uint32_t{0x800});
    expect_no_symbols("no end within 512 bytes");
    made_.write(made_.object_of(0) + made_.layout.kallsyms, uint64_t{0});
    expect_no_symbols("symbols of module brd");
}

/// Sizes of functions are the guest's as well.
TEST_P(Modules, EndsOfFunctionsAreInTheText) {
    Gva size_of_second = made_.start(0) + MadeModules::symtab + 24 + 16;
    for (uint64_t size : {~uint64_t{0}, uint64_t{MadeModules::text_size}, uint64_t{0}}) {
        made_.write(size_of_second, size);
        auto found = symbols();
        ASSERT_TRUE(found);
        EXPECT_EQ(found->ends, std::vector{made_.start(0) + 0x30}) << size;
    }
}

TEST_P(Modules, RandomDamage) {
    std::mt19937_64 random(11);
    MadeModules made(GetParam());
    made.add("brd");
    made.add("loop");
    for (int round = 0; round < 3000; round++) {
        std::vector<std::pair<Gva, uint64_t>> undamaged;
        for (int i = 0; i < 8; i++) {
            Gva at = made.object_of(random() % 2) + random() % 0x2000 / 8 * 8;
            uint64_t values[] = {random(), 0, made.start(random() % 3).value + random() % 0x6000,
                                 ~uint64_t{0}, random() % 0x10000};
            undamaged.emplace_back(at, made.word(at));
            made.word(at) = values[random() % 5];
        }
        GuestModules read = made.read();
        EXPECT_LE(read.modules.size(), 4096u);
        for (const GuestModule& module : read.modules) {
            auto found = read_module_symbols(made.memory(), made.layout, module);
            for (size_t i = 0; found && i < found->symbols.size(); i++)
                EXPECT_TRUE(module.contains(Gva(found->symbols[i].value)));
        }
        // Backwards: a word may have been hit twice.
        for (auto hit = undamaged.rbegin(); hit != undamaged.rend(); ++hit)
            made.word(hit->first) = hit->second;
    }
}

INSTANTIATE_TEST_SUITE_P(Series, Modules, testing::Values(ModuleSeries::Core, ModuleSeries::Mem),
                         [](const auto& info) {
                             return info.param == ModuleSeries::Core ? "core" : "mem";
                         });

TEST(ModuleLayout, NamesWhatIsMissing) {
    for (auto series : {ModuleSeries::Core, ModuleSeries::Mem}) {
        for (const char* needed : {"state", "list", "name", "kallsyms", "symtab", "num_symtab",
                                   "strtab", "typetab", "base", "size"}) {
            auto btf = Btf::parse(make_module_btf(series, needed));
            ASSERT_TRUE(btf) << btf.error().message();
            auto layout = ModuleLayout::of(*btf);
            ASSERT_FALSE(layout) << needed;
            EXPECT_NE(layout.error().message().find(needed), std::string::npos)
                << layout.error().message();
        }
        // Kernels may be built without these.
        for (const char* optional : {"extable", "jump_entries", "static_call_sites", "bug_table",
                                     "ftrace_callsites", "noinstr_text_start"}) {
            auto btf = Btf::parse(make_module_btf(series, optional));
            ASSERT_TRUE(btf) << btf.error().message();
            auto layout = ModuleLayout::of(*btf);
            ASSERT_TRUE(layout) << layout.error().message();
        }
    }
}

} // namespace
} // namespace shadowmon::test
