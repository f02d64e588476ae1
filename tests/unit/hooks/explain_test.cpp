// SPDX-License-Identifier: GPL-2.0-or-later
// All that is said about one place, in code made for it.
#include "src/hooks/explain.h"

#include "tests/unit/hooks/made_kernel.h"

#include <gtest/gtest.h>

namespace shadowmon::test {
namespace {

std::vector<std::string> texts(const std::vector<ListedInstruction>& list) {
    std::vector<std::string> out;
    for (const ListedInstruction& one : list)
        out.push_back(one.text);
    return out;
}

class Explain : public testing::Test {
  protected:
    Explain() {
        // nop5; push rbp; mov rbp, rsp; lea rax, [rip+...]; je to the leave; call g; leave; ret
        f_ = made_.add("f", {0x0f, 0x1f, 0x44, 0,    0,    0x55, 0x48, 0x89, 0xe5,
                             0x48, 0x8d, 0x05, 0xf0, 0xff, 0x7f, 0,    0x74, 0x05,
                             0xe8, 0x09, 0,    0,    0,    0xc9, 0xc3});
        g_ = made_.add("g", {0x06, 0x90, 0xc3});
        made_.add_symbol("table", MadeKernel::data, 'd');
        info_.emplace(made_.info());
        planner_.emplace(made_.planner(*info_));
    }
    Explanation at(uint64_t offset) const { return explain(*planner_, *info_, f_ + offset); }

    MadeKernel made_;
    Gva f_, g_;
    std::optional<KernelInfo> info_;
    std::optional<HookPlanner> planner_;
};

TEST_F(Explain, AHook) {
    Explanation e = at(5);
    EXPECT_EQ(e.symbol, "f");
    EXPECT_EQ(e.offset, 5u);
    EXPECT_EQ(e.function_start, f_);
    EXPECT_EQ(e.function_end, g_);
    EXPECT_TRUE(e.refusal.empty()) << e.refusal;
    EXPECT_EQ(e.reason, "");
    EXPECT_EQ(e.gate, Gate::interrupt);
    EXPECT_FALSE(e.call_site);
    EXPECT_EQ(texts(e.displaced), (std::vector<std::string>{"push rbp", "mov rbp, rsp"}));
    EXPECT_EQ(e.displaced[0].bytes, (std::vector{std::byte{0x55}}));

    ASSERT_EQ(e.pieces.size(), 2u);
    EXPECT_TRUE(e.pieces[0].interrupts_on);
    EXPECT_EQ(e.pieces[0].address, Gva(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET + 16));
    EXPECT_EQ(texts(e.pieces[0].code),
              (std::vector<std::string>{"push rbp", "mov rbp, rsp", "sti",
                                        fmt::format("jmp 0x{:X}", (f_ + 9).value)}));
    EXPECT_EQ(e.pieces[0].code.back().names, "f+0x9");
    EXPECT_EQ(e.pieces[1].address, e.pieces[0].address + 16);
    EXPECT_EQ(e.pieces[1].code.size(), 3u);
}

TEST_F(Explain, WhatIsAround) {
    Explanation e = at(18); // the call
    ASSERT_EQ(e.around.size(), 7u);
    EXPECT_EQ(e.around[0].address, f_ + 6);
    EXPECT_EQ(e.around[1].names, "table");
    EXPECT_EQ(e.around[2].names, "f+0x17");
    EXPECT_EQ(e.around[3].address, f_ + 18);
    EXPECT_EQ(e.around[3].names, "g");
    EXPECT_EQ(e.around[4].text, "leave");
    EXPECT_TRUE(e.around[4].is_target);
    EXPECT_FALSE(e.around[3].is_target);
    // Nothing in front of the function, and what is displaced does not count as behind.
    e = at(5);
    EXPECT_EQ(e.around.front().address, f_);
    EXPECT_EQ(e.around.size(), 6u);
    EXPECT_EQ(e.around.back().address, f_ + 18);
}

TEST_F(Explain, TheNameOfAnOperandStaysTheSame) {
    Explanation e = at(9);
    ASSERT_EQ(e.pieces.size(), 2u);
    EXPECT_EQ(e.pieces[0].code[0].text, "lea rax, [0xFFFFFFFF81800000]");
    EXPECT_EQ(e.pieces[0].code[0].names, "table");
    EXPECT_NE(e.pieces[0].code[0].bytes, e.displaced[0].bytes);
}

TEST_F(Explain, ByCall) {
    made_.patched(f_, Refusal::ftrace);
    HookPlanner planner = made_.planner(*info_, {.call_gate = true});
    Explanation e = explain(planner, *info_, f_);
    EXPECT_EQ(e.gate, Gate::call);
    EXPECT_TRUE(e.call_site);
    EXPECT_TRUE(e.refusal.empty()) << e.refusal;
    EXPECT_EQ(e.displaced.size(), 1u);
    EXPECT_TRUE(e.pieces.empty()) << "nothing has to run elsewhere";
}

TEST_F(Explain, Refusals) {
    Explanation e = at(0);
    EXPECT_EQ(e.reason, "ftrace");
    EXPECT_TRUE(e.call_site);
    EXPECT_FALSE(e.gate);
    EXPECT_TRUE(e.pieces.empty() && e.displaced.empty());
    EXPECT_EQ(e.refusal, "f cannot be hooked: the kernel patches it: ftrace's place at a "
                         "function's entry (`nop [rax+rax*1], eax`)");
    EXPECT_EQ(e.around.size(), 4u);

    e = at(7); // inside an instruction: what is around it
    EXPECT_EQ(e.reason, "inside_instruction");
    EXPECT_EQ(e.around.front().address, f_);
    EXPECT_EQ(e.around[2].address, f_ + 6);
    EXPECT_EQ(e.around.size(), 6u);

    e = explain(*planner_, *info_, g_ + 1); // behind what is no code
    EXPECT_EQ(e.reason, "unclear_code");
    EXPECT_EQ(e.around.front().address, g_ + 1);

    e = explain(*planner_, *info_, MadeKernel::data + 4);
    EXPECT_EQ(e.reason, "not_kernel_text");
    EXPECT_EQ(e.symbol, "table");
    EXPECT_EQ(e.function_start, Gva());
    EXPECT_TRUE(e.around.empty());

    // Out of reach of what it names: no piece, and the reason is that.
    e = explain(*planner_, *info_, f_ + 9, Gva(0x00007fff00000000));
    EXPECT_TRUE(e.refusal.empty()) << e.refusal; // the last 2 GiB have absolute addresses
    EXPECT_EQ(e.pieces[0].code[0].text, "lea rax, [0xFFFFFFFF81800000]");
}

} // namespace
} // namespace shadowmon::test
