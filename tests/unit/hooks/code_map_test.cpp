// SPDX-License-Identifier: GPL-2.0-or-later
// Where instructions begin and where something leads, in code made for it.
#include "src/hooks/code_map.h"

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>

namespace shadowmon {
namespace {

constexpr Gva start(0xffffffff81000000);

CodeMap map_of(std::initializer_list<int> values, std::vector<Gva> entries = {start},
               std::vector<Gva> thunks = {}) {
    std::vector<std::byte> bytes;
    for (int value : values)
        bytes.push_back(static_cast<std::byte>(value));
    return CodeMap(start, bytes, entries, thunks);
}

std::vector<unsigned> starts(const CodeMap& map) {
    std::vector<unsigned> out;
    for (Gva at = map.start(); at < map.end(); at = at + 1)
        if (map.is_start(at))
            out.push_back(static_cast<unsigned>(at - map.start()));
    return out;
}

TEST(CodeMap, InstructionsBeginBehindEachOther) {
    auto map = map_of({0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3, 0xcc, 0xcc});
    EXPECT_EQ(starts(map), (std::vector<unsigned>{0, 1, 4, 5, 6, 7}));
    EXPECT_EQ(map.function(start)->unclear_from, map.end());
    EXPECT_EQ(map.start_around(start + 3), start + 1);
    EXPECT_EQ(map.instruction(start + 1)->text(), "mov rbp, rsp");
    EXPECT_FALSE(map.instruction(start + 2));
}

TEST(CodeMap, FunctionsBeginAnew) {
    // An instruction that would reach into the next function is none.
    auto map = map_of({0x48, 0x89, 0x90, 0xc3}, {start, start + 2});
    EXPECT_EQ(starts(map), (std::vector<unsigned>{2, 3}));
    EXPECT_EQ(map.function(start + 1)->unclear_from, start);
    EXPECT_EQ(map.function(start + 2)->unclear_from, map.end());
    EXPECT_TRUE(map.is_target(start));
    EXPECT_TRUE(map.is_target(start + 2));
    EXPECT_EQ(map.function(start + 4), nullptr);
    EXPECT_EQ(map_of({0x90, 0x90}, {start + 1}).function(start), nullptr);
}

TEST(CodeMap, TargetsOfEveryKind) {
    auto target = [](std::initializer_list<int> code, unsigned offset) {
        return map_of(code).is_target(start + offset);
    };
    EXPECT_TRUE(target({0xeb, 0x01, 0x90, 0x90}, 3));                         // jmp short
    EXPECT_TRUE(target({0x90, 0xeb, 0xfd}, 0));                               // backwards
    EXPECT_TRUE(target({0x0f, 0x84, 1, 0, 0, 0, 0x90, 0x90}, 7));             // je near
    EXPECT_TRUE(target({0xe8, 1, 0, 0, 0, 0x90, 0x90}, 6));                   // call
    EXPECT_TRUE(target({0xe3, 0x01, 0x90, 0x90}, 3));                         // jrcxz
    EXPECT_TRUE(target({0x48, 0x8d, 0x05, 1, 0, 0, 0, 0x90, 0x90}, 8));       // lea rax, [rip+1]
    EXPECT_TRUE(target({0x48, 0xc7, 0xc0, 0x08, 0, 0, 0x81, 0x90, 0x90}, 8)); // mov rax, imm32
    EXPECT_TRUE(target({0x68, 0x06, 0, 0, 0x81, 0x90, 0x90}, 6));             // push imm32
    EXPECT_TRUE(
        target({0x48, 0xb8, 0x0b, 0, 0, 0x81, 0xff, 0xff, 0xff, 0xff, 0x90, 0x90}, 11)); // movabs
    EXPECT_FALSE(target({0xeb, 0x01, 0x90, 0x90}, 2));
}

TEST(CodeMap, ComputedJumps) {
    auto computed = [](std::initializer_list<int> code, std::vector<Gva> thunks = {}) {
        return map_of(code, {start}, std::move(thunks)).function(start)->computed_jump;
    };
    EXPECT_TRUE(computed({0xff, 0xe0}));                          // jmp rax
    EXPECT_TRUE(computed({0xff, 0x24, 0xc5, 0, 0, 0, 0x81}));     // jmp [rax*8+...]
    EXPECT_TRUE(computed({0xe9, 0, 0, 0, 0, 0x90}, {start + 5})); // jmp to a thunk
    EXPECT_FALSE(computed({0xe9, 0, 0, 0, 0, 0x90}));
    EXPECT_FALSE(computed({0xff, 0xd0}));                          // call rax
    EXPECT_FALSE(computed({0xe8, 0, 0, 0, 0, 0x90}, {start + 5})); // call of a thunk
}

TEST(CodeMap, UnclearBehindWhatIsNoCode) {
    auto unclear = [](std::initializer_list<int> code) {
        return map_of(code).function(start)->unclear_from - start;
    };
    EXPECT_EQ(unclear({0x90, 0x06, 0x90}), 1u);                   // no instruction
    EXPECT_EQ(unclear({0x55, 0xcc, 0x89, 0xe5}), 1u);             // a breakpoint is fallen into
    EXPECT_EQ(unclear({0xeb, 0x01, 0xcc, 0xcc, 0x89, 0xe5}), 3u); // a breakpoint is jumped to
    EXPECT_EQ(unclear({0xcc, 0x89, 0xe5}), 0u);                   // the entry is one
    EXPECT_EQ(unclear({0x55, 0xcd, 0x14, 0xe5, 0x90}), 3u);       // an INT 20 and what it left
    EXPECT_EQ(unclear({0xc3, 0xcc, 0x90}), 3u);                   // INT3 behind a return
}

/// What only looks like an address finds padding, not breakpoints.
TEST(CodeMap, OnlyCodeTellsOfBreakpoints) {
    auto unclear = [](std::initializer_list<int> code) {
        return map_of(code).function(start)->unclear_from - start;
    };
    // mov rax, imm32, the address of the INT3 behind the return
    EXPECT_EQ(unclear({0x48, 0xc7, 0xc0, 0x08, 0, 0, 0x81, 0xc3, 0xcc, 0x90}), 10u);
    // lea rax, [rip+1]
    EXPECT_EQ(unclear({0x48, 0x8d, 0x05, 1, 0, 0, 0, 0xc3, 0xcc, 0x90}), 10u);
    // A jump there, but behind what is no code, in another function.
    auto map = map_of({0xc3, 0xcc, 0x90, 0xeb, 0xfc, 0xc3}, {start, start + 3});
    EXPECT_EQ(map.function(start)->unclear_from, start + 1);
    map = map_of({0xc3, 0xcc, 0x90, 0x06, 0xeb, 0xfb, 0xc3}, {start, start + 3});
    EXPECT_EQ(map.function(start)->unclear_from, start + 3);
    EXPECT_TRUE(map.is_target(start + 1));
}

/// Whatever leads there, from however far, and whatever was asked before.
TEST(CodeMap, TargetsFromAfar) {
    constexpr size_t size = 0x30000;
    constexpr uint32_t target = 0x20003, from = 0x100;
    auto leads = [&](std::vector<int> code, uint32_t operand, unsigned behind, uint32_t value) {
        std::vector<std::byte> bytes(size, std::byte{0x90});
        for (size_t i = 0; i < code.size(); i++)
            bytes[from + i] = static_cast<std::byte>(code[i]);
        std::memcpy(&bytes[from + operand], &value, behind);
        std::vector<Gva> entries;
        for (uint32_t at = 0; at < size; at += 0x100)
            entries.push_back(start + at);
        CodeMap map(start, bytes, entries, {});
        CodeMap asked_before(start, bytes, entries, {});
        EXPECT_FALSE(asked_before.is_target(start + (target + 1)));
        EXPECT_EQ(asked_before.is_target(start + target), map.is_target(start + target));
        return map.is_target(start + target);
    };
    auto near = [&](unsigned end) { return target - (from + end); };
    const auto address = static_cast<uint32_t>(start.value + target);
    EXPECT_TRUE(leads({0xe8, 0, 0, 0, 0}, 1, 4, near(5)));                   // call
    EXPECT_TRUE(leads({0xe9, 0, 0, 0, 0}, 1, 4, near(5)));                   // jmp
    EXPECT_TRUE(leads({0x0f, 0x8f, 0, 0, 0, 0}, 2, 4, near(6)));             // jg
    EXPECT_TRUE(leads({0xc7, 0xf8, 0, 0, 0, 0}, 2, 4, near(6)));             // xbegin
    EXPECT_TRUE(leads({0x48, 0x8d, 0x3d, 0, 0, 0, 0}, 3, 4, near(7)));       // lea rdi, [rip+...]
    EXPECT_TRUE(leads({0x80, 0x3d, 0, 0, 0, 0, 1}, 2, 4, near(7)));          // cmp byte, imm8
    EXPECT_TRUE(leads({0x66, 0x81, 0x3d, 0, 0, 0, 0, 1, 1}, 3, 4, near(9))); // cmp word, imm16
    EXPECT_TRUE(leads({0x81, 0x3d, 0, 0, 0, 0, 1, 1, 1, 1}, 2, 4, near(10)));
    EXPECT_TRUE(leads({0x48, 0xc7, 0xc0, 0, 0, 0, 0}, 3, 4, address));
    EXPECT_TRUE(leads({0x48, 0xb8, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 2, 4, address));
    EXPECT_TRUE(leads({0x48, 0x8b, 0x04, 0xc5, 0, 0, 0, 0}, 4, 4, address));  // [rax*8+...]
    EXPECT_FALSE(leads({0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0}, 2, 4, address)); // of user space
    // Bytes that could lead there, and are none of an operand that does.
    EXPECT_FALSE(leads({0x48, 0xb8, 0, 0xe8, 0, 0, 0, 0, 0, 0}, 4, 4, near(8)));
    // xbegin of 16 bits
    auto narrow = [](uint16_t distance) {
        std::vector<std::byte> bytes(0x8000, std::byte{0x90});
        const uint8_t code[] = {0x66, 0xc7, 0xf8};
        std::memcpy(&bytes[0x10], code, sizeof(code));
        std::memcpy(&bytes[0x13], &distance, sizeof(distance));
        std::vector<Gva> entries{start, start + 0x100};
        return CodeMap(start, bytes, entries, {}).is_target(start + 0x7000);
    };
    EXPECT_TRUE(narrow(0x7000 - 0x15));
    EXPECT_FALSE(narrow(0x7000 - 0x14));
}

TEST(CodeMap, XensPrefixIsNoCode) {
    // ud2; "xen"; cpuid; ret: the bytes would be a js to the INT3 far behind
    std::vector<std::byte> code(0x80, std::byte{0xcc});
    const uint8_t prefixed[] = {0x0f, 0x0b, 'x', 'e', 'n', 0x0f, 0xa2, 0xc3};
    std::memcpy(code.data(), prefixed, sizeof(prefixed));
    code[0x40] = std::byte{0xc3};
    std::vector<Gva> entries{start, start + 0x40};
    CodeMap map(start, code, entries, {});
    EXPECT_TRUE(map.is_start(start));
    EXPECT_FALSE(map.is_start(start + 2) || map.is_start(start + 3) || map.is_start(start + 4));
    EXPECT_EQ(map.instruction(start + 5)->text(), "cpuid");
    EXPECT_FALSE(map.is_target(start + 4 + 0x65));
    EXPECT_EQ(map.function(start + 0x40)->unclear_from, map.end());
    // A UD2 that is the last of its function's.
    EXPECT_EQ(starts(map_of({0x0f, 0x0b, 'x', 'e'})), (std::vector<unsigned>{0, 2}));
}

} // namespace
} // namespace shadowmon
