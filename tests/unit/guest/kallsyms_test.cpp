// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/kallsyms.h"

#include "tests/unit/guest/synthetic.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace shadowmon::test {
namespace {

constexpr uint64_t text_base = 0xffffffff9a600000;

class KallsymsOrder : public testing::TestWithParam<TableOrder> {};

TEST_P(KallsymsOrder, DecodesEverySymbol) {
    auto expected = fake_symbols(text_base);
    auto symbols = Kallsyms::parse(make_kallsyms(expected, text_base, GetParam()), Gva(text_base));
    ASSERT_TRUE(symbols) << symbols.error().message();
    ASSERT_EQ(symbols->size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        Symbol symbol = (*symbols)[i];
        EXPECT_EQ(symbol.name, expected[i].name);
        EXPECT_EQ(symbol.type, expected[i].type);
        EXPECT_EQ(symbol.value, expected[i].value);
        EXPECT_EQ(symbol.absolute, expected[i].value < text_base);
    }
}

TEST_P(KallsymsOrder, DecodesTablesWithoutAbsoluteSymbols) {
    auto expected = fake_symbols(text_base);
    expected.erase(expected.begin(), expected.begin() + 3);
    auto symbols =
        Kallsyms::parse(make_kallsyms(expected, text_base, GetParam(), false), Gva(text_base));
    ASSERT_TRUE(symbols) << symbols.error().message();
    EXPECT_EQ(symbols->find("_end")->value, text_base + 0x200000);
    EXPECT_FALSE(symbols->find("_end")->absolute);
}

TEST_P(KallsymsOrder, LooksUp) {
    auto symbols = Kallsyms::parse(make_kallsyms(fake_symbols(text_base), text_base, GetParam()),
                                   Gva(text_base));
    ASSERT_TRUE(symbols) << symbols.error().message();
    EXPECT_EQ(symbols->address("_stext")->value, text_base);
    EXPECT_EQ(*symbols->percpu_offset("current_task"), 0x1fb80u);
    EXPECT_FALSE(symbols->percpu_offset("_stext"));
    EXPECT_FALSE(symbols->address("current_task"));
    EXPECT_FALSE(symbols->address("missing"));
    EXPECT_EQ(symbols->find_all("twice").size(), 2u);
    auto ambiguous = symbols->address("twice");
    ASSERT_FALSE(ambiguous);
    EXPECT_NE(ambiguous.error().message().find("2 symbols"), std::string::npos);

    EXPECT_EQ(symbols->find_by_address(Gva(text_base + 0x10010))->name, "twice");
    EXPECT_EQ(symbols->find_by_address(Gva(text_base))->name, "_text");
    EXPECT_FALSE(symbols->find_by_address(Gva(text_base - 1)));
    EXPECT_FALSE(symbols->find_by_address(Gva(0)));
    EXPECT_EQ(symbols->next_address(Gva(text_base + 0x10000))->value, text_base + 0x10040);
    EXPECT_FALSE(symbols->next_address(Gva(UINT64_MAX)));
}

TEST_P(KallsymsOrder, RefusesAnotherText) {
    auto symbols = Kallsyms::parse(make_kallsyms(fake_symbols(text_base), text_base, GetParam()),
                                   Gva(text_base + 0x200000));
    ASSERT_FALSE(symbols);
    EXPECT_NE(symbols.error().message().find("_text is"), std::string::npos)
        << symbols.error().message();
}

TEST_P(KallsymsOrder, RefusesEveryCut) {
    auto whole = make_kallsyms(fake_symbols(text_base), text_base, GetParam());
    size_t needed = whole.size() - 63 * 8;
    for (size_t size = 0; size < needed; size += 13) {
        std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
        auto symbols = Kallsyms::parse(cut, Gva(text_base));
        ASSERT_FALSE(symbols) << size;
        EXPECT_EQ(symbols.error().message().find("kallsyms"), 0u) << symbols.error().message();
    }
}

TEST_P(KallsymsOrder, SurvivesCorruption) {
    auto whole = make_kallsyms(fake_symbols(text_base), text_base, GetParam());
    unsigned refused = 0;
    for (uint32_t seed = 0; seed < 3000; ++seed) {
        std::mt19937 random(seed);
        auto bad = whole;
        for (unsigned n = 1 + random() % 8; n; --n)
            bad[random() % bad.size()] = static_cast<std::byte>(random());
        auto symbols = Kallsyms::parse(bad, Gva(text_base));
        if (!symbols) {
            ++refused;
            EXPECT_EQ(symbols.error().message().find("kallsyms"), 0u) << symbols.error().message();
        }
    }
    EXPECT_GT(refused, 300u);
}

INSTANTIATE_TEST_SUITE_P(Orders, KallsymsOrder,
                         testing::Values(TableOrder::Before64, TableOrder::Before64WithSeqs,
                                         TableOrder::Since64));

TEST(Kallsyms, RefusesWhatIsNoTable) {
    auto nothing = Kallsyms::parse({}, Gva(text_base));
    ASSERT_FALSE(nothing);
    EXPECT_EQ(nothing.error().message(), "kallsyms: no token table");
    std::vector<std::byte> zeros(1 << 20);
    EXPECT_FALSE(Kallsyms::parse(zeros, Gva(text_base)));
}

/// A guest that wants us busy: a token table, and before it only numbers that could
/// each be the number of symbols.
TEST(Kallsyms, BoundsTheSearch) {
    auto data = make_kallsyms(fake_symbols(text_base), text_base, TableOrder::Since64);
    std::vector<std::byte> trap(32 << 20);
    for (size_t at = 0; at < trap.size(); at += 8) {
        uint64_t count = (trap.size() - at) / 8;
        std::memcpy(trap.data() + at, &count, 8);
    }
    // Names of one byte each wherever the search begins.
    for (size_t at = 0; at < trap.size(); ++at)
        if (trap[at] == std::byte{0} && at % 8 < 4)
            trap[at] = std::byte{1};
    trap.insert(trap.end(), data.begin(), data.end());
    auto symbols = Kallsyms::parse(trap, Gva(text_base));
    EXPECT_TRUE(symbols) << symbols.error().message(); // the real one is the nearest

    data[data.size() - 63 * 8 - 8] ^= std::byte{0x10}; // and now it is wrong
    trap.resize(32 << 20);
    trap.insert(trap.end(), data.begin(), data.end());
    EXPECT_FALSE(Kallsyms::parse(trap, Gva(text_base)));
}

} // namespace
} // namespace shadowmon::test
