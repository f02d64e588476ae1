/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest memory is read where it can be, and never where a load would fault. */
#include "payload/guest_memory.h"

#include "tests/unit/payload/fake_machine.h"

#include <rapidcheck/gtest.h>

#include <random>

namespace shadowmon::payload::test {
namespace {

using Direct = DirectMemory<FakeMachine>;
using Any = AnyMemory<FakeMachine>;

constexpr u64 stack_pointer = FakeMachine::stack + 0x3000;

TEST(Window, EveryEdge) {
    const sm_window window{0x10000, 0x1000};
    EXPECT_TRUE(is_in_window(window, Gva{0x10000}, 8));
    EXPECT_TRUE(is_in_window(window, Gva{0x10ff8}, 8));
    EXPECT_FALSE(is_in_window(window, Gva{0x10ff9}, 8));
    EXPECT_FALSE(is_in_window(window, Gva{0xffff}, 8));
    EXPECT_FALSE(is_in_window(window, Gva{~u64{0}}, 8));
    EXPECT_TRUE(is_in_window(window, Gva{0x10000}, 0x1000));
    EXPECT_FALSE(is_in_window(window, Gva{0x10000}, 0x1001));
    EXPECT_FALSE(is_in_window({0, 0}, Gva{0}, 8)) << "an unused entry";
}

TEST(Window, UpToTheEndOfTheAddressSpace) {
    const sm_window window{0xfffffffffffff000, 0x1000};
    EXPECT_TRUE(is_in_window(window, Gva{0xfffffffffffffff8}, 8));
    EXPECT_FALSE(is_in_window(window, Gva{0xfffffffffffffff9}, 8));
    EXPECT_FALSE(is_in_window(window, Gva{0}, 8));
}

RC_GTEST_PROP(Window, AgreesWithWideArithmetic, (u64 start, u64 size, u64 at, u32 length)) {
    using u128 = unsigned __int128;
    const u64 bounded = size % (0 - start ? 0 - start : ~u64{0});
    const bool inside = at >= start && u128{at} + length <= u128{start} + bounded;
    RC_ASSERT(is_in_window({start, bounded}, Gva{at}, length) == inside);
}

TEST(StackBlock, IsTheBlockOfTheFrame) {
    const Gva sp{stack_pointer};
    EXPECT_TRUE(is_in_stack_block(sp, Gva{FakeMachine::stack}, 168));
    EXPECT_TRUE(is_in_stack_block(sp, Gva{FakeMachine::stack + 0x4000 - 168}, 168));
    EXPECT_FALSE(is_in_stack_block(sp, Gva{FakeMachine::stack + 0x4000 - 167}, 168));
    EXPECT_FALSE(is_in_stack_block(sp, Gva{FakeMachine::stack - 1}, 168));
    EXPECT_FALSE(is_in_stack_block(sp, Gva{0}, 168));
}

TEST(FrameOnStack, RefusesWhatNoKernelStackIs) {
    FakeMachine m;
    EXPECT_TRUE(is_frame_on_stack(m.config_, Gva{stack_pointer}, 64));
    EXPECT_FALSE(is_frame_on_stack(m.config_, Gva{0}, 64));
    EXPECT_FALSE(is_frame_on_stack(m.config_, Gva{0x7fff12340000}, 64)) << "user space";
    EXPECT_FALSE(is_frame_on_stack(m.config_, Gva{0x8000000000000000}, 64)) << "not canonical";
    EXPECT_FALSE(is_frame_on_stack(m.config_, Gva{FakeMachine::direct_map - 8}, 64));
    EXPECT_TRUE(is_frame_on_stack(m.config_, Gva{FakeMachine::stack + 0x4000 - 64}, 64));
    EXPECT_FALSE(is_frame_on_stack(m.config_, Gva{FakeMachine::stack + 0x4000 - 56}, 64));
    EXPECT_FALSE(is_frame_on_stack(m.config_, Gva{~u64{0}}, 64));
}

/* What is calculated in few instructions, against what it stands for, at every place in a block. */
TEST(FrameOnStack, EndsInItsBlock) {
    FakeMachine m;
    for (const u64 block : {FakeMachine::stack, u64{0xffffc900fffac000}, u64{0xfffffffffffbc000}})
        for (const u32 end : {SM_ASM_CALL_SIZE, SM_ASM_FRAME_SIZE})
            for (u64 at = 0; at < stack_block_size; at++)
                ASSERT_EQ(is_frame_on_stack(m.config_, Gva{block + at}, end),
                          at + end <= stack_block_size)
                    << std::hex << block + at << " " << end;
}

TEST(DirectMemory, KnowsOneWindowAndTheStack) {
    FakeMachine m;
    const Direct memory(m, Gva{stack_pointer});
    EXPECT_TRUE(memory.object(Gva{FakeMachine::direct_map + 0x1234}).ok());
    EXPECT_FALSE(memory.object(Gva{FakeMachine::kernel_image}).ok());
    EXPECT_FALSE(memory.object(Gva{stack_pointer}).ok());
    EXPECT_TRUE(memory.on_stack(Gva{stack_pointer}, 168).ok());
    EXPECT_FALSE(memory.on_stack(Gva{FakeMachine::direct_map}, 168).ok());
}

TEST(DirectMemory, AsksForRoomForATaskOfEverything) {
    FakeMachine m;
    const Direct memory(m, Gva{stack_pointer});
    const u64 end = FakeMachine::direct_map + FakeMachine::ram_size;
    EXPECT_TRUE(memory.object(Gva{end - m.config_.task_size}).ok());
    EXPECT_FALSE(memory.object(Gva{end - m.config_.task_size + 1}).ok());
    EXPECT_FALSE(memory.object(Gva{FakeMachine::direct_map - 1}).ok());
    m.config_.windows[0].size = m.config_.task_size - 1;
    EXPECT_FALSE(Direct(m, Gva{stack_pointer}).object(Gva{FakeMachine::direct_map}).ok());
}

/* Of a field behind a pointer it is the field's own address that has to be in the window. */
TEST(DirectMemory, LooksAtTheFieldThatAPointerLeadsTo) {
    FakeMachine m;
    const Direct memory(m, Gva{stack_pointer});
    const u64 begin = FakeMachine::direct_map, end = begin + FakeMachine::ram_size;
    const struct {
        u64 distance, offset;
    } fields[] = {{memory.parent_tgid(), m.config_.offsets.task_tgid},
                  {memory.cred_uid(), m.config_.offsets.cred_uid},
                  {memory.current_task(), m.config_.offsets.current_task}};
    for (const auto& field : fields) {
        const auto is_ok = [&](u64 at) {
            return memory.field(at - field.offset, field.distance).ok();
        };
        EXPECT_TRUE(is_ok(begin));
        EXPECT_FALSE(is_ok(begin - 1));
        EXPECT_TRUE(is_ok(end - m.config_.task_size));
        EXPECT_FALSE(is_ok(end - m.config_.task_size + 1));
        EXPECT_FALSE(is_ok(0));
        EXPECT_FALSE(is_ok(~u64{0}));
        m.write(begin + 0x5000, u32{0x12345678} + static_cast<u32>(field.offset));
        u32 value = 0;
        memory.field(begin + 0x5000 - field.offset, field.distance)
            .load(memory.field_base(), &value);
        EXPECT_EQ(value, 0x12345678 + field.offset);
    }
}

TEST(AnyMemory, ReadsEveryWindow) {
    FakeMachine m;
    const Any memory(m, Gva{stack_pointer});
    m.write(FakeMachine::direct_map + FakeMachine::ram_size - 8, u64{0x1111});
    m.write(FakeMachine::direct_map + FakeMachine::high_ram, u64{0x2222});
    m.write(FakeMachine::kernel_image + 0x10, u64{0x3333});
    u64 value = 0;
    EXPECT_TRUE(memory.copy(Gva{FakeMachine::direct_map + FakeMachine::ram_size - 8}, &value, 8));
    EXPECT_EQ(value, 0x1111u);
    EXPECT_TRUE(memory.copy(Gva{FakeMachine::direct_map + FakeMachine::high_ram}, &value, 8));
    EXPECT_EQ(value, 0x2222u);
    EXPECT_TRUE(memory.copy(Gva{FakeMachine::kernel_image + 0x10}, &value, 8));
    EXPECT_EQ(value, 0x3333u);
    EXPECT_FALSE(memory.copy(Gva{FakeMachine::direct_map + FakeMachine::ram_size}, &value, 8));
    EXPECT_FALSE(memory.copy(Gva{0}, &value, 8));
    EXPECT_FALSE(memory.copy(Gva{0xdead000000000122}, &value, 8));
}

TEST(AnyMemory, StackCountsAsMappedOnlyOnceTheFrameSaysSo) {
    FakeMachine m;
    m.cr3_ = m.new_table(); /* so that no walk finds it either */
    m.write(stack_pointer, u64{7});
    u64 value = 0;
    Any memory(m, Gva{stack_pointer});
    EXPECT_FALSE(memory.copy(Gva{stack_pointer}, &value, 8));
    memory.frame(64);
    EXPECT_TRUE(memory.copy(Gva{stack_pointer}, &value, 8));
    EXPECT_EQ(value, 7u);
}

class Walk : public testing::TestWithParam<bool> {
  protected:
    Walk() {
        if (GetParam()) {
            m.config_.la57 = 1;
            m.cr3_ = m.new_table();
        }
    }
    std::optional<u64> translate(u64 gva) {
        Gpa gpa;
        if (!memory.translate(Gva{gva}, &gpa))
            return {};
        return raw(gpa);
    }
    FakeMachine m;
    const Any memory{m, Gva{stack_pointer}};
};

TEST_P(Walk, FindsPagesOfEverySize) {
    m.map(0x7f1234567000, 0x345000, 12);
    m.map(0x7f1200000000, 0x600000, 21);
    m.map(0xffffea0040000000, 0x80000000, 30);
    EXPECT_EQ(translate(0x7f1234567abc), 0x345abcu);
    EXPECT_EQ(translate(0x7f12001fffff), 0x7fffffu);
    EXPECT_EQ(translate(0xffffea007fffffff), 0xbfffffffu);
    EXPECT_EQ(translate(0x7f1234568000), std::nullopt);
    EXPECT_EQ(translate(0x7f1200200000), std::nullopt);
}

TEST_P(Walk, LargeBitMeansNothingAtTheTop) {
    /* Bit 7 of a PML4 or PML5 entry is reserved; it must not be taken for a huge page. */
    m.map(0x7f1234567000, 0x345000, 12);
    const int top = m.config_.la57 ? 48 : 39;
    const u64 at = m.cr3_ + (u64{0x7f1234567000} >> top & 0x1ff) * 8;
    m.write_gpa(at, m.read_gpa(at) | 0x80);
    EXPECT_EQ(translate(0x7f1234567abc), 0x345abcu);
}

TEST_P(Walk, RefusesAddressesThatAreNotCanonical) {
    EXPECT_EQ(translate(0x8000000000000000), std::nullopt);
    EXPECT_EQ(translate(0x0100000000000000), std::nullopt);
    EXPECT_EQ(translate(m.config_.la57 ? 0xfe00000000000000 : 0xffff000000000000), std::nullopt);
    EXPECT_EQ(m.loads_, 0u);
}

TEST_P(Walk, TablesMayLieInEveryRangeOfRamButNowhereElse) {
    const u64 gva = 0x7f0000000000;
    const int top = m.config_.la57 ? 48 : 39;
    const u64 top_entry = m.cr3_ + (gva >> top & 0x1ff) * 8;
    for (u64 table : {FakeMachine::high_ram + 0x5000, u64{0xfee00000}, FakeMachine::ram_size,
                      u64{0x000ffffffffff000}, u64{0xffff000000000}}) {
        m.write_gpa(top_entry, table | 0x67);
        EXPECT_EQ(translate(gva), std::nullopt) << std::hex << table;
    }
    m.cr3_ = 0xfffffffff000;
    EXPECT_EQ(translate(gva), std::nullopt);
}

TEST_P(Walk, LoopsEnd) {
    /* The table is its own entry at every index: each level leads back to it. */
    for (u64 i = 0; i < 512; i++)
        m.write_gpa(m.cr3_ + 8 * i, m.cr3_ | 0x67);
    m.loads_ = 0;
    EXPECT_EQ(translate(0x7f1234567abc), m.cr3_ + 0xabc);
    EXPECT_EQ(m.loads_, m.config_.la57 ? 5u : 4u);
}

TEST_P(Walk, WhatAPageTableEntryNamesIsCheckedToo) {
    u64 value = 0;
    m.map(0x7f0000000000, 0xfee00000, 12);
    EXPECT_FALSE(memory.copy(Gva{0x7f0000000000}, &value, 8)) << "a device";
    m.map(0x7f0000001000, FakeMachine::ram_size - 0x1000, 12);
    m.map(0x7f0000002000, FakeMachine::ram_size, 12);
    EXPECT_TRUE(memory.copy(Gva{0x7f0000001ff8}, &value, 8));
    EXPECT_FALSE(memory.copy(Gva{0x7f0000001ffc}, &value, 8)) << "half of it is no RAM";
}

TEST_P(Walk, CopiesAcrossPagesThatLieApart) {
    m.map(0x7f0000000000, 0x333000, 12);
    m.map(0x7f0000001000, 0x111000, 12);
    m.write_gpa(0x333ffc, u32{0x44332211});
    m.write_gpa(0x111000, u32{0x88776655});
    u64 value = 0;
    EXPECT_TRUE(memory.copy(Gva{0x7f0000000ffc}, &value, 8));
    EXPECT_EQ(value, 0x8877665544332211u);
}

INSTANTIATE_TEST_SUITE_P(Levels, Walk, testing::Bool(),
                         [](const auto& info) { return info.param ? "five" : "four"; });

/* Garbage in every table: never a load that faults, whatever is asked for. */
RC_GTEST_PROP(AnyMemory, SurvivesGarbageTables, (bool la57, u64 seed)) {
    FakeMachine m;
    m.config_.la57 = la57;
    std::mt19937_64 random(seed);
    for (u64 page = 0; page < 8; page++)
        for (u64 i = 0; i < 512; i += 1 + random() % 4) {
            u64 entry = random();
            if (random() % 4)
                entry = (FakeMachine::tables + (random() % 8) * SM_PAGE_SIZE) | (entry & 0xfff) | 1;
            m.write_gpa(FakeMachine::tables + page * SM_PAGE_SIZE + 8 * i, entry);
        }
    m.cr3_ = random() % 4 ? FakeMachine::tables : random() & ~u64{0xfff};
    Any memory(m, Gva{stack_pointer});
    if (random() % 2)
        memory.frame(64);
    for (int i = 0; i < 20; i++) {
        u8 buffer[300];
        const u64 at = random() % 2 ? random() : random() & 0x7fffffffffff;
        memory.copy(Gva{at}, buffer, static_cast<u32>(random() % sizeof(buffer)));
    }
    RC_ASSERT(!testing::Test::HasFailure());
}

} // namespace
} // namespace shadowmon::payload::test
