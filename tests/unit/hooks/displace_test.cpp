// SPDX-License-Identifier: GPL-2.0-or-later
// What pieces of displaced code consist of, byte by byte. That they do what they should is shown
// by executing them: displaced_execution_test, stock_displaced_test.
#include "src/hooks/displaced_code.h"

#include "abi/layout.h"
#include "src/hooks/site_planner.h"
#include "tests/unit/hooks/stock_functions.h"

#include <gtest/gtest.h>

#include <random>

namespace shadowmon {
namespace {

constexpr Gva page(SM_COMPARTMENT_GVA + 0x2000); // so low that not all of a guest is in reach
constexpr uint64_t kernel = 0xffffffff81000000;
constexpr uint64_t module = 0xffffffffc0400000; // out of reach of the page

Displaced code(uint64_t at, std::initializer_list<int> values) {
    Displaced out;
    for (int value : values)
        out.bytes.push_back(static_cast<std::byte>(value));
    for (size_t offset = 0; offset < out.bytes.size();) {
        auto instruction =
            Instruction::decode(Gva(at + offset), std::span(out.bytes).subspan(offset));
        EXPECT_TRUE(instruction);
        offset += instruction->length();
        out.instructions.push_back(*instruction);
    }
    return out;
}

/// The piece in Intel syntax, or the error.
std::string piece(const Displaced& displaced, bool interrupts, Gva to = page) {
    auto bytes = displace(displaced, to, interrupts);
    if (!bytes)
        return bytes.error().message();
    std::string text;
    for (size_t offset = 0; offset < bytes->size();) {
        auto instruction = Instruction::decode(to + offset, std::span(*bytes).subspan(offset));
        if (!instruction)
            return text + "?";
        text += (offset ? "; " : "") + instruction->text();
        offset += instruction->length();
    }
    return text;
}

TEST(Displace, CopiesWhatDoesNotNameItsAddress) {
    auto mov = code(kernel, {0x48, 0x89, 0xe5});
    EXPECT_EQ(piece(mov, false), "mov rbp, rsp; jmp 0xFFFFFFFF81000003");
    EXPECT_EQ(piece(mov, true), "mov rbp, rsp; sti; jmp 0xFFFFFFFF81000003");
}

TEST(Displace, LeavesByReturnWhereAJumpDoesNotReach) {
    auto mov = code(module, {0x48, 0x89, 0xe5});
    EXPECT_EQ(piece(mov, false), "mov rbp, rsp; push 0xFFFFFFFFC0400003; ret");
    EXPECT_EQ(piece(mov, true), "mov rbp, rsp; push 0xFFFFFFFFC0400003; sti; ret");
}

TEST(Displace, KeepsTheAddressOfRipOperands) {
    auto near = code(0xffffffff81c8f28e, {0x48, 0x8b, 0x2d, 0x4b, 0x21, 0x37, 0x00});
    EXPECT_EQ(piece(near, false), "mov rbp, [0xFFFFFFFF820013E0]; jmp 0xFFFFFFFF81C8F295");
    // Of a module: by its absolute address.
    auto far = code(module, {0x48, 0x8b, 0x2d, 0x00, 0x10, 0x00, 0x00});
    EXPECT_EQ(piece(far, false), "mov rbp, [0xFFFFFFFFC0401007]; push 0xFFFFFFFFC0400007; ret");
}

TEST(Displace, PerCpuOperandsBecomeAbsolute) {
    // mov rax, gs:[rip + ...] names the small number 0x35000.
    auto c = code(0xffffffff81c8f284, {0x65, 0x48, 0x8b, 0x05, 0x74, 0x5d, 0x3a, 0x7e});
    EXPECT_EQ(piece(c, false), "mov rax, gs:[0x0000000000035000]; jmp 0xFFFFFFFF81C8F28C");
}

TEST(Displace, StrayIndexBitChoosesNoIndex) {
    // mov rbp, gs:[rip + ...] with REX.X, which means nothing there.
    auto c = code(0xffffffff81c8f284, {0x65, 0x4a, 0x8b, 0x2d, 0x74, 0x5d, 0x3a, 0x7e});
    EXPECT_EQ(piece(c, false), "mov rbp, gs:[0x0000000000035000]; jmp 0xFFFFFFFF81C8F28C");
}

TEST(Displace, CallsPushTheirOwnReturnAddress) {
    EXPECT_EQ(piece(code(kernel, {0xe8, 0x00, 0x01, 0x00, 0x00}), true),
              "push 0xFFFFFFFF81000005; sti; jmp 0xFFFFFFFF81000105");
    EXPECT_EQ(piece(code(kernel, {0xff, 0xd0}), true), "push 0xFFFFFFFF81000002; sti; jmp rax");
    EXPECT_EQ(piece(code(kernel, {0xff, 0x54, 0x24, 0x08}), false),
              "push 0xFFFFFFFF81000004; jmp [rsp+0x10]");
    EXPECT_EQ(piece(code(kernel, {0xff, 0x15, 0, 1, 0, 0}), false),
              "push 0xFFFFFFFF81000006; jmp [0xFFFFFFFF81000106]");
    EXPECT_EQ(piece(code(module, {0xe8, 0x00, 0x01, 0x00, 0x00}), true),
              "push 0xFFFFFFFFC0400005; push 0xFFFFFFFFC0400105; sti; ret");
    // With INT3 behind it, as retpolines and loops that fill the return stack buffer have it.
    EXPECT_NE(piece(code(kernel, {0xe8, 0x01, 0x00, 0x00, 0x00}), false).find("speculation"),
              std::string::npos);
}

TEST(Displace, JumpsLeadWhereTheyLed) {
    EXPECT_EQ(piece(code(kernel, {0xeb, 0x10}), true), "sti; jmp 0xFFFFFFFF81000012");
    EXPECT_EQ(piece(code(kernel, {0xc3}), true), "sti; ret");
    EXPECT_EQ(piece(code(kernel, {0xc2, 0x08, 0x00}), false), "ret 0x08");
    EXPECT_EQ(piece(code(kernel, {0x75, 0x10}), true),
              "jnz 0xFFFFFFFF40002008; sti; jmp 0xFFFFFFFF81000002; sti; jmp 0xFFFFFFFF81000012");
    EXPECT_EQ(piece(code(kernel, {0x0f, 0x84, 0, 1, 0, 0}), false),
              "jz 0xFFFFFFFF40002007; jmp 0xFFFFFFFF81000006; jmp 0xFFFFFFFF81000106");
    EXPECT_EQ(piece(code(kernel, {0x67, 0xe3, 0x10}), false),
              "jecxz 0xFFFFFFFF40002008; jmp 0xFFFFFFFF81000003; jmp 0xFFFFFFFF81000013");
}

TEST(Displace, InterruptFlagIsWhatItWouldBe) {
    EXPECT_EQ(piece(code(kernel, {0xfa, 0x90}), true), "nop; jmp 0xFFFFFFFF81000002");
    EXPECT_EQ(piece(code(kernel, {0xfb, 0x90}), false), "nop; sti; jmp 0xFFFFFFFF81000002");
    EXPECT_EQ(piece(code(kernel, {0x9c, 0x58}), false), "pushfq; pop rax; jmp 0xFFFFFFFF81000002");
    EXPECT_EQ(piece(code(kernel, {0x9c, 0x58}), true),
              "pushfq; pushfq; or qword ptr [rsp+0x08], 0x200; popfq; pop rax; sti; "
              "jmp 0xFFFFFFFF81000002");
    EXPECT_EQ(piece(code(kernel, {0xfa, 0x9c}), true), "pushfq; jmp 0xFFFFFFFF81000002");
}

TEST(Displace, NoPieceIsLongerThanPromised) {
    // push rbp; cmpxchg gs:[rip + ...]: the longest form of a pair.
    auto c = code(module, {0x9c, 0x65, 0xf0, 0x66, 0x48, 0x0f, 0xc7, 0x0d, 0, 0, 0, 0});
    for (bool interrupts : {false, true}) {
        auto bytes = displace(c, page, interrupts);
        ASSERT_TRUE(bytes) << bytes.error().message();
        EXPECT_LE(bytes->size(), max_piece_size);
    }
}

TEST(Displace, RefusesWhatIsOutOfReach) {
    // 0x50000007 fits an absolute operand; an address beyond 2 GiB does not.
    EXPECT_TRUE(displace(code(0x10000000, {0x48, 0x8b, 0x2d, 0, 0, 0, 0x40}), page, false));
    auto far = code(0x7fff10000000, {0x48, 0x8b, 0x2d, 0, 0, 0, 0x40});
    EXPECT_FALSE(displace(far, page, false));
    EXPECT_FALSE(displace(code(0x7fff10000000, {0x90, 0x90}), page, false));
}

TEST(Displace, RefusesWhatCannotBeMoved) {
    for (auto values : {std::initializer_list<int>{0x0f, 0x0b}, {0xcc}, {0xf4}, {0x0f, 0x05}}) {
        auto c = code(kernel, values);
        EXPECT_FALSE(displace(c, page, false)) << c.instructions[0].text();
    }
    // What follows a return is not reached by it.
    EXPECT_FALSE(displace(code(kernel, {0xc3, 0x90}), page, false));
}

TEST(DisplacedCode, VariantsOfEveryStockSite) {
    DisplacedCode area(page, SM_DISPLACED_MAX_SIZE);
    for (const StockFunction& f : stock_functions()) {
        auto all = std::as_bytes(std::span(f.bytes));
        auto site = plan_site({f.name, Gva(f.address), all, {ZYDIS_REGISTER_RDI}});
        ASSERT_TRUE(site);
        auto resume = area.add(site->instruction, site->bytes);
        ASSERT_TRUE(resume) << resume.error().message();
        for (auto [at, with_sti] : {std::pair{resume->if1, true}, {resume->if0, false}}) {
            auto rest = area.bytes().subspan(at - page);
            auto first = Instruction::decode(at, rest);
            ASSERT_TRUE(first);
            EXPECT_EQ(first->text(), site->instruction.text());
            rest = rest.subspan(first->length());
            Gva next = first->end();
            if (with_sti) {
                EXPECT_EQ(rest[0], std::byte{0xfb});
                rest = rest.subspan(1);
                next = next + 1;
            }
            auto back = Instruction::decode(next, rest);
            ASSERT_TRUE(back);
            EXPECT_EQ(back->info.mnemonic, ZYDIS_MNEMONIC_JMP);
            EXPECT_EQ(back->branch_target(), site->instruction.end());
        }
    }
    EXPECT_EQ(area.bytes()[0], std::byte{0xcc});
}

TEST(DisplacedCode, FullAreaRefusesAndStaysAsItWas) {
    DisplacedCode area(page, 16 + 16);
    EXPECT_FALSE(area.add(code(kernel, {0x48, 0x89, 0xe5})));
    EXPECT_EQ(area.bytes().size(), 16u);
}

TEST(DisplacedCode, PiecesComeAndGo) {
    constexpr size_t size = 2048;
    const Displaced choices[] = {
        code(kernel, {0x48, 0x89, 0xe5}),             // mov rbp, rsp
        code(kernel, {0x55, 0x48, 0x89, 0xe5}),       // push rbp; mov rbp, rsp
        code(kernel, {0x48, 0x8b, 0x05, 1, 0, 0, 0}), // mov rax, [rip + 1]
        code(kernel, {0xe8, 0, 1, 0, 0}),             // call
        code(kernel, {0x74, 0x10}),                   // je
    };
    DisplacedCode area(page, size);
    std::vector<std::byte> region(size, std::byte{0});
    std::vector<std::pair<Resume, const Displaced*>> there;
    std::mt19937 random(3);
    auto check = [&](std::span<const std::byte> bytes) {
        std::vector<bool> covered(size);
        for (auto [resume, displaced] : there) {
            for (auto [at, on] : {std::pair{resume.if1, true}, {resume.if0, false}}) {
                auto want = displace(*displaced, at, on);
                ASSERT_TRUE(want);
                auto now = bytes.subspan(at - page, want->size());
                ASSERT_TRUE(std::equal(now.begin(), now.end(), want->begin(), want->end()));
                for (size_t i = 0; i < want->size(); i++) {
                    ASSERT_FALSE(covered[at - page + i]) << "two pieces in one place";
                    covered[at - page + i] = true;
                }
            }
        }
        for (size_t i = 0; i < bytes.size(); i++)
            ASSERT_TRUE(covered[i] || bytes[i] == std::byte{0xcc}) << i;
    };
    size_t most = 0;
    for (unsigned step = 0; step < 4000; step++) {
        if (step == 1000) {
            area.publish_to(region);
            check(region);
        }
        if (random() % 9 < 5) {
            const Displaced& displaced = choices[random() % std::size(choices)];
            if (auto resume = area.add(displaced))
                there.emplace_back(*resume, &displaced);
            else
                EXPECT_GT(area.taken(), size / 2) << resume.error().message();
        } else if (!there.empty()) {
            std::swap(there[random() % there.size()], there.back());
            EXPECT_TRUE(area.free(there.back().first));
            EXPECT_FALSE(area.free(there.back().first));
            there.pop_back();
        }
        most = std::max(most, there.size());
        check(step < 1000 ? area.bytes() : std::span<const std::byte>(region));
        if (HasFatalFailure())
            return;
    }
    EXPECT_GT(most, 16u);
    for (auto [resume, displaced] : there)
        EXPECT_TRUE(area.free(resume));
    EXPECT_EQ(area.taken(), 0u);
    EXPECT_EQ(area.bytes().size(), 16u);
    EXPECT_EQ(std::count(region.begin(), region.end(), std::byte{0xcc}), long{size});
}

TEST(DisplacedCode, FreesOnlyWhatItGave) {
    DisplacedCode area(page, 4096);
    auto a = area.add(code(kernel, {0x48, 0x89, 0xe5}));
    auto b = area.add(code(kernel, {0x48, 0x89, 0xe5}));
    ASSERT_TRUE(a && b);
    EXPECT_FALSE(area.free({a->if0, a->if1}));
    EXPECT_FALSE(area.free({a->if1, b->if0}));
    EXPECT_FALSE(area.free({page, page}));
    EXPECT_TRUE(area.free(*a));
    EXPECT_TRUE(area.free(*b));
}

TEST(DisplacedCode, SiteOutOfReach) {
    DisplacedCode area(page, 4096);
    EXPECT_FALSE(area.add(code(0x7fff10000000, {0x48, 0x89, 0xe5})));
}

} // namespace
} // namespace shadowmon
