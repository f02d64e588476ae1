// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/page_walk.h"

#include "tests/unit/guest/synthetic.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace shadowmon::test {
namespace {

constexpr Gva kernel_base{0xffffffff81000000};

class PageWalk : public testing::TestWithParam<unsigned> {
  protected:
    PageWalk() : memory_(16 << 20), root_(memory_.new_page()) {}

    unsigned levels() const { return GetParam(); }
    PageTables tables() const { return PageTables(memory_, root_, levels()); }
    void map(Gva gva, Gpa gpa, unsigned level, uint64_t flags) {
        memory_.map(root_, levels(), gva, gpa, level, flags);
    }
    std::vector<MappedRange> scan(Gva start, uint64_t size) {
        std::vector<MappedRange> ranges;
        auto status = tables().for_each_mapped(
            start, size,
            [&](const MappedRange& range) {
                ranges.push_back(range);
                return true;
            },
            1000);
        EXPECT_TRUE(status) << status.error().message();
        return ranges;
    }

    SmallMemory memory_;
    Gpa root_;
};

TEST_P(PageWalk, LeadsToPagesOfAllSizes) {
    map(kernel_base, Gpa(0x5000), 1, Writable);
    map(kernel_base + 0x200000, Gpa(0x40200000), 2, NoExecute);
    map(Gva(0xffff888040000000), Gpa(0x80000000), 3, Writable | NoExecute);
    map(Gva(0x400000), Gpa(0x7000), 1, User);

    auto small = tables().walk(kernel_base + 0x123);
    ASSERT_TRUE(small) << small.error().message();
    EXPECT_EQ(small->gpa, Gpa(0x5123));
    EXPECT_EQ(small->page_size, 0x1000u);
    EXPECT_EQ(small->level, 1u);
    EXPECT_EQ(small->rights, (PageRights{true, false, true}));

    auto large = tables().walk(kernel_base + 0x212345);
    ASSERT_TRUE(large) << large.error().message();
    EXPECT_EQ(large->gpa, Gpa(0x40212345));
    EXPECT_EQ(large->page_size, 0x200000u);
    EXPECT_EQ(large->rights, (PageRights{false, false, false}));

    auto huge = tables().walk(Gva(0xffff888052345678));
    ASSERT_TRUE(huge) << huge.error().message();
    EXPECT_EQ(huge->gpa, Gpa(0x92345678));
    EXPECT_EQ(huge->level, 3u);
    EXPECT_EQ(huge->rights, (PageRights{true, false, false}));

    auto user = tables().walk(Gva(0x400fff));
    ASSERT_TRUE(user) << user.error().message();
    EXPECT_EQ(user->rights, (PageRights{false, true, true}));
}

TEST_P(PageWalk, IgnoresWhatIsNotTheAddressOfTheRoot) {
    map(kernel_base, Gpa(0x5000), 1, 0);
    PageTables tables(memory_, Gpa(root_.value | (uint64_t{1} << 63) | 0xfff), levels());
    EXPECT_TRUE(tables.walk(kernel_base));
}

TEST_P(PageWalk, NamesLevelAndEntryOfWhatIsMissing) {
    auto top = tables().walk(kernel_base);
    ASSERT_FALSE(top);
    EXPECT_EQ(top.error().code(), ENOENT);
    EXPECT_NE(top.error().message().find(levels() == 5 ? "PGD entry 511" : "P4D entry 511"),
              std::string::npos)
        << top.error().message();

    map(kernel_base, Gpa(0x5000), 1, 0);
    auto leaf = tables().walk(kernel_base + 0x3000);
    ASSERT_FALSE(leaf);
    EXPECT_NE(leaf.error().message().find("PTE entry 3 "), std::string::npos)
        << leaf.error().message();
}

TEST_P(PageWalk, RefusesReservedBits) {
    map(kernel_base, Gpa(0x40200000), 2, 0);
    EXPECT_TRUE(tables().walk(kernel_base));
    memory_.entry(root_, levels(), kernel_base, 2) |= 0x2000;
    auto walk = tables().walk(kernel_base);
    ASSERT_FALSE(walk);
    EXPECT_EQ(walk.error().code(), EINVAL);
    EXPECT_NE(walk.error().message().find("PMD entry"), std::string::npos);

    memory_.entry(root_, levels(), kernel_base, levels()) |= LargePage;
    auto top = tables().walk(kernel_base);
    ASSERT_FALSE(top);
    EXPECT_EQ(top.error().code(), EINVAL);
    EXPECT_TRUE(scan(kernel_base, 0x200000).empty());
}

TEST_P(PageWalk, RefusesTablesOutsideRam) {
    map(kernel_base, Gpa(0x5000), 1, 0);
    memory_.entry(root_, levels(), kernel_base, 2) = 0x7ffffffff000 | Present;
    auto walk = tables().walk(kernel_base);
    ASSERT_FALSE(walk);
    EXPECT_EQ(walk.error().code(), EFAULT);
    EXPECT_NE(walk.error().message().find("PTE table at 0x7ffffffff000"), std::string::npos)
        << walk.error().message();
    EXPECT_TRUE(scan(kernel_base, 0x200000).empty());
}

TEST_P(PageWalk, RefusesAddressesThatAreNotCanonical) {
    Gva five(0xff11000000000000); // canonical with five levels only
    EXPECT_EQ(tables().canonical(five), levels() == 5);
    auto walk = tables().walk(Gva(0x8000000000000000));
    ASSERT_FALSE(walk);
    EXPECT_EQ(walk.error().code(), EINVAL);
}

TEST_P(PageWalk, FindsTheEntryOfEachLevel) {
    map(kernel_base, Gpa(0x5000), 1, 0);
    for (unsigned level = 1; level <= levels(); level++) {
        auto* word =
            reinterpret_cast<std::byte*>(&memory_.entry(root_, levels(), kernel_base, level));
        auto entry = tables().entry_of(kernel_base, level);
        ASSERT_TRUE(entry) << entry.error().message();
        EXPECT_EQ(entry->value, static_cast<uint64_t>(word - memory_.bytes().data()));
    }
    // What the entry itself holds does not count, what is above it does.
    memory_.entry(root_, levels(), kernel_base, 2) = 0;
    EXPECT_TRUE(tables().entry_of(kernel_base, 2));
    EXPECT_EQ(tables().entry_of(kernel_base, 1).error().code(), ENOENT);
    map(kernel_base + 0x200000, Gpa(0x40200000), 2, 0);
    EXPECT_EQ(tables().entry_of(kernel_base + 0x200000, 1).error().code(), EINVAL);
    memory_.entry(root_, levels(), kernel_base, 3) = 0x7ffffffff000 | Present;
    EXPECT_EQ(tables().entry_of(kernel_base, 1).error().code(), EFAULT);
    EXPECT_EQ(tables().entry_of(Gva(0x8000000000000000), 3).error().code(), EINVAL);
    EXPECT_EQ(tables().entry_of(kernel_base, 0).error().code(), EINVAL);
    EXPECT_EQ(tables().entry_of(kernel_base, levels() + 1).error().code(), EINVAL);
}

TEST_P(PageWalk, MergesRuns) {
    for (uint64_t page = 0; page < 4; ++page)
        map(kernel_base + page * 0x1000, Gpa(0x10000 + page * 0x1000), 1, NoExecute);
    map(kernel_base + 0x4000, Gpa(0x14000), 1, NoExecute | Writable); // other rights
    map(kernel_base + 0x5000, Gpa(0x99000), 1, NoExecute | Writable); // elsewhere
    map(kernel_base + 0x200000, Gpa(0x40000000), 2, 0);
    map(kernel_base + 0x400000, Gpa(0x40200000), 2, 0);

    auto ranges = scan(kernel_base, 1 << 30);
    ASSERT_EQ(ranges.size(), 4u);
    EXPECT_EQ(ranges[0].size, 0x4000u);
    EXPECT_EQ(ranges[1].size, 0x1000u);
    EXPECT_EQ(ranges[2].gpa, Gpa(0x99000));
    EXPECT_EQ(ranges[3].start, kernel_base + 0x200000);
    EXPECT_EQ(ranges[3].size, 0x400000u);

    auto part = scan(kernel_base + 0x1800, 0x1000);
    ASSERT_EQ(part.size(), 1u);
    EXPECT_EQ(part[0].start, kernel_base + 0x1800);
    EXPECT_EQ(part[0].gpa, Gpa(0x11800));
    EXPECT_EQ(part[0].size, 0x1000u);

    auto in_large = scan(kernel_base + 0x234000, 0x1000);
    ASSERT_EQ(in_large.size(), 1u);
    EXPECT_EQ(in_large[0].gpa, Gpa(0x40034000));
}

TEST_P(PageWalk, ReachesTheVeryEnd) {
    map(Gva(0xfffffffffffff000), Gpa(0x3000), 1, 0);
    map(Gva(0), Gpa(0x2000), 1, 0);
    auto ranges = scan(Gva(0), UINT64_MAX);
    ASSERT_EQ(ranges.size(), 2u);
    EXPECT_EQ(ranges[1].start, Gva(0xfffffffffffff000));
    EXPECT_EQ(ranges[1].size, 0xfffu); // UINT64_MAX bytes end one byte earlier
    EXPECT_EQ(scan(Gva(0xffffffff00000000), UINT64_MAX)[0].size, 0x1000u);
}

TEST_P(PageWalk, BoundsTablesThatGoInCircles) {
    for (unsigned index = 0; index < 512; ++index)
        memory_.word(root_ + 8 * index) = root_.value | Present;
    auto status = tables().for_each_mapped(
        Gva(0), UINT64_MAX, [](const MappedRange&) { return true; }, 1000);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code(), ELOOP);
    EXPECT_LT(memory_.reads, 100u); // kept, not read again
    EXPECT_TRUE(tables().walk(kernel_base));
}

TEST_P(PageWalk, StopsWhenToldTo) {
    map(kernel_base, Gpa(0x1000), 1, 0);
    map(kernel_base + 0x2000, Gpa(0x8000), 1, 0);
    unsigned seen = 0;
    auto visit = [&](const MappedRange&) {
        ++seen;
        return false;
    };
    EXPECT_TRUE(tables().for_each_mapped(Gva(0), UINT64_MAX, visit, 1000));
    EXPECT_EQ(seen, 1u);
}

TEST_P(PageWalk, FindsTheFirstPage) {
    EXPECT_EQ(*tables().first_mapped(Gva(0), UINT64_MAX, 100), std::nullopt);
    map(kernel_base, Gpa(0x40000000), 2, 0);
    map(kernel_base + 0x200000, Gpa(0x40200000), 2, 0);
    auto first = tables().first_mapped(Gva(0xffff800000000000), UINT64_MAX, 100);
    ASSERT_TRUE(first && *first);
    EXPECT_EQ((*first)->start, kernel_base);
    EXPECT_EQ((*first)->size, 0x200000u); // not merged
    auto inside = tables().first_mapped(kernel_base + 0x201000, 0x1000, 100);
    ASSERT_TRUE(inside && *inside);
    EXPECT_EQ((*inside)->gpa, Gpa(0x40201000));
}

TEST_P(PageWalk, SeesChangesAfterDrop) {
    map(kernel_base, Gpa(0x5000), 1, 0);
    PageTables kept = tables();
    EXPECT_EQ(kept.walk(kernel_base)->gpa, Gpa(0x5000));
    map(kernel_base, Gpa(0x6000), 1, 0);
    EXPECT_EQ(kept.walk(kernel_base)->gpa, Gpa(0x5000));
    kept.drop();
    EXPECT_EQ(kept.walk(kernel_base)->gpa, Gpa(0x6000));
}

TEST_P(PageWalk, ReadsAcrossPages) {
    map(kernel_base, Gpa(0x800000), 1, 0);
    map(kernel_base + 0x1000, Gpa(0x801000), 1, 0);
    map(kernel_base + 0x2000, Gpa(0x900000), 1, 0);
    std::memcpy(memory_.bytes().data() + 0x801ffc, "head", 4);
    std::memcpy(memory_.bytes().data() + 0x900000, "tail", 5);
    VirtualMemory kernel(tables());
    EXPECT_EQ(*kernel.read_string(kernel_base + 0x1ffc, 100), "headtail");
    EXPECT_FALSE(kernel.read_string(kernel_base + 0x1ffc, 8));
    auto value = kernel.read_value<uint64_t>(kernel_base + 0x1ffc);
    ASSERT_TRUE(value);
    EXPECT_EQ(std::memcmp(&*value, "headtail", 8), 0);
    EXPECT_FALSE(kernel.read_value<uint64_t>(kernel_base + 0x2ffc));

    std::vector<std::byte> pages(0x2000);
    uint64_t before = memory_.reads;
    ASSERT_TRUE(kernel.read(kernel_base, pages));
    EXPECT_EQ(memory_.reads - before, 1u); // contiguous: one read
}

/// Whatever the tables hold: an answer in bounded time and reads.
TEST_P(PageWalk, SurvivesRandomTables) {
    for (uint32_t seed = 0; seed < 100; ++seed) {
        std::mt19937_64 random(seed);
        SmallMemory memory(64 << 10);
        for (uint64_t at = 0; at < (64 << 10); at += 8) {
            uint64_t target = random() % 20 * 0x1000; // four of them outside
            memory.word(Gpa(at)) = target | (random() & 0x80000000000000ff);
        }
        PageTables tables(memory, Gpa(0x1000), levels());
        for (unsigned i = 0; i < 50; ++i)
            (void)tables.walk(Gva(static_cast<uint64_t>(static_cast<int64_t>(random() << 7) >>
                                                        (levels() == 5 ? 7 : 16))));
        auto status = tables.for_each_mapped(
            Gva(0), UINT64_MAX, [](const MappedRange&) { return true; }, 2000);
        if (!status) {
            EXPECT_EQ(status.error().code(), ELOOP);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Levels, PageWalk, testing::Values(4, 5));

} // namespace
} // namespace shadowmon::test
