// SPDX-License-Identifier: GPL-2.0-or-later
// Choosing the instruction that carries a hook, in functions of stock kernels and in
// code made to be refused.
#include "src/hooks/site_planner.h"

#include "tests/unit/hooks/stock_functions.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace shadowmon {
namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
    std::vector<std::byte> out;
    for (int value : values)
        out.push_back(static_cast<std::byte>(value));
    return out;
}

Result<Site> plan(std::span<const std::byte> code, uint64_t start = 0xffffffff81000000,
                  std::vector<ZydisRegister> keep = {ZYDIS_REGISTER_RDI}) {
    return plan_site({"function", Gva(start), code, std::move(keep)});
}

PrologueRefusal judge_bytes(std::initializer_list<int> values, uint64_t at = 0xffffffff81000000) {
    auto code = bytes(values);
    auto instruction = Instruction::decode(Gva(at), code);
    EXPECT_TRUE(instruction);
    EXPECT_EQ(instruction->length(), code.size());
    return judge_prologue(*instruction);
}

TEST(StockKernels, BoundariesAreThoseOfObjdump) {
    for (const StockFunction& f : stock_functions()) {
        auto code = std::as_bytes(std::span(f.bytes));
        unsigned offset = 0;
        for (unsigned boundary : f.boundaries) {
            ASSERT_EQ(offset, boundary) << f.kernel << " " << f.name;
            auto instruction = Instruction::decode(Gva(f.address + offset), code.subspan(offset));
            ASSERT_TRUE(instruction);
            offset += instruction->length();
        }
    }
}

TEST(StockKernels, SitesAreFound) {
    for (const StockFunction& f : stock_functions()) {
        auto site = plan_site({f.name,
                               Gva(f.address),
                               std::as_bytes(std::span(f.bytes)),
                               {ZYDIS_REGISTER_RDI, ZYDIS_REGISTER_RSI}});
        ASSERT_TRUE(site) << f.kernel << " " << site.error().message();
        EXPECT_EQ(site->address.value - f.address, f.site)
            << f.kernel << " " << f.name << ": " << site->instruction.text();
    }
}

TEST(Judge, Refusals) {
    EXPECT_EQ(judge_bytes({0xcd, 0x14}), PrologueRefusal::hooked_already);
    EXPECT_EQ(judge_bytes({0xf3, 0x0f, 0x1e, 0xfa}), PrologueRefusal::patched_by_guest); // endbr64
    EXPECT_EQ(judge_bytes({0x0f, 0x1f, 0x44, 0x00, 0x00}), PrologueRefusal::patched_by_guest);
    EXPECT_EQ(judge_bytes({0x66, 0x90}), PrologueRefusal::patched_by_guest);
    EXPECT_EQ(judge_bytes({0x55}), PrologueRefusal::too_short);
    EXPECT_EQ(judge_bytes({0x48, 0x89, 0xe5}, 0xffffffff81000ffe), PrologueRefusal::page_crossing);
    EXPECT_EQ(judge_bytes({0xeb, 0x10}), PrologueRefusal::control_flow);
    EXPECT_EQ(judge_bytes({0xff, 0x15, 0, 0, 0, 0}), PrologueRefusal::control_flow); // call [rip]
    EXPECT_EQ(judge_bytes({0xc3}), PrologueRefusal::control_flow);
    EXPECT_EQ(judge_bytes({0x0f, 0x05}), PrologueRefusal::control_flow);           // syscall
    EXPECT_EQ(judge_bytes({0x0f, 0x01, 0xf8}), PrologueRefusal::unsafe_class);     // swapgs
    EXPECT_EQ(judge_bytes({0x0f, 0x30}), PrologueRefusal::unsafe_class);           // wrmsr
    EXPECT_EQ(judge_bytes({0xf3, 0x48, 0xa5}), PrologueRefusal::unsafe_class);     // rep movsq
    EXPECT_EQ(judge_bytes({0x66, 0x9d}), PrologueRefusal::unsafe_class);           // popfw
    EXPECT_EQ(judge_bytes({0x48, 0x8b, 0x07}), PrologueRefusal::memory);           // mov rax, [rdi]
    EXPECT_EQ(judge_bytes({0x0f, 0x22, 0xd8}), PrologueRefusal::special_register); // mov cr3, rax
    EXPECT_EQ(judge_bytes({0x8e, 0xd8}), PrologueRefusal::special_register);       // mov ds, eax
}

TEST(Judge, Acceptances) {
    EXPECT_EQ(judge_bytes({0x48, 0x89, 0xe5}), PrologueRefusal::none);       // mov rbp, rsp
    EXPECT_EQ(judge_bytes({0x41, 0x57}), PrologueRefusal::none);             // push r15
    EXPECT_EQ(judge_bytes({0x48, 0x83, 0xec, 0x20}), PrologueRefusal::none); // sub rsp, 32
    EXPECT_EQ(judge_bytes({0x4c, 0x8d, 0xb6, 0, 0x15, 0, 0}),
              PrologueRefusal::none); // lea r14, [rsi+..]
    EXPECT_EQ(judge_bytes({0x48, 0x89, 0x44, 0x24, 0x08}),
              PrologueRefusal::none); // mov [rsp+8], rax
    EXPECT_EQ(judge_bytes({0x65, 0x48, 0x8b, 0x04, 0x25, 0x80, 0xfb, 0x01, 0x00}),
              PrologueRefusal::none); // mov rax, gs:[..]
}

TEST(Plan, PrefersInstructionsWithoutRip) {
    // mov rax, [rip]; mov rbp, rsp
    auto code = bytes({0x48, 0x8b, 0x05, 0, 1, 0, 0, 0x48, 0x89, 0xe5, 0xc3});
    auto site = plan(code);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->address.value & 0xff, 7u);
    auto only_rip = bytes({0x48, 0x8b, 0x05, 0, 1, 0, 0, 0xc3});
    site = plan(only_rip);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->address.value & 0xff, 0u);
}

TEST(Plan, StopsWhereArgumentsAreOverwritten) {
    // push rbp; mov edi, [rsi]; mov rbp, rsp
    auto code = bytes({0x55, 0x8b, 0x3e, 0x48, 0x89, 0xe5, 0xc3});
    auto site = plan(code);
    ASSERT_FALSE(site);
    EXPECT_NE(site.error().message().find("`mov edi, [rsi]`"), std::string::npos)
        << site.error().message();
    EXPECT_TRUE(plan(code, 0xffffffff81000000, {ZYDIS_REGISTER_RSI}));
}

TEST(Plan, TheOverwritingInstructionItselfMayCarryTheHook) {
    auto code = bytes({0x48, 0x89, 0xf7, 0xc3}); // mov rdi, rsi
    EXPECT_TRUE(plan(code));
}

TEST(Plan, StopsAtTheFirstBranch) {
    auto code = bytes({0x55, 0x74, 0x02, 0x48, 0x89, 0xe5, 0xc3}); // je over
    EXPECT_FALSE(plan(code));
}

TEST(Plan, RefusesJumpTargets) {
    // mov rbp, rsp; sub rsp, 16; jmp to the sub
    auto code = bytes({0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0xeb, 0xfa, 0xc3});
    auto site = plan(code);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->address.value & 0xff, 0u);
    // The same with a jump to the first instruction.
    code[8] = std::byte{0xf7};
    site = plan(code);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->address.value & 0xff, 3u);
}

TEST(Plan, SaysThatAFunctionIsHookedAlready) {
    auto code = bytes({0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xcd, 0x14, 0xe5, 0xc3});
    auto site = plan(code);
    ASSERT_FALSE(site);
    EXPECT_NE(site.error().message().find("carries a hook at 0xffffffff81000005 already"),
              std::string::npos)
        << site.error().message();
}

TEST(Plan, SurvivesGarbage) {
    EXPECT_FALSE(plan({}));
    std::vector<std::byte> noise(4096);
    uint32_t state = 1;
    for (int round = 0; round < 200; round++) {
        for (std::byte& b : noise)
            b = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
        auto site = plan(noise);
        if (site) {
            EXPECT_GE(site->bytes.size(), hook_bytes.size());
        }
    }
}

} // namespace
} // namespace shadowmon
