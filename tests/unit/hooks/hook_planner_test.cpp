// SPDX-License-Identifier: GPL-2.0-or-later
// What can be hooked and why the rest cannot, in code made for it.
#include "src/hooks/hook_planner.h"

#include "src/hooks/movable.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <set>

namespace shadowmon {
namespace {

constexpr Gva start(0xffffffff81000000);

struct Made {
    std::vector<int> code;
    std::vector<Gva> entries = {start};
    Refusal function = Refusal::none;
    std::vector<Gva> may_fault = {};
    std::vector<PatchedSite> patched = {};
    std::vector<Gva> targets = {};
    HookPolicy policy = {};
    Gva at_page = start;

    HookPlanner planner() const {
        std::vector<std::byte> bytes;
        for (int value : code)
            bytes.push_back(static_cast<std::byte>(value));
        CodeMap map(at_page, bytes, entries, {});
        for (Gva target : targets)
            map.add_target(target);
        std::vector<Refusal> functions(map.function_count(), function);
        return HookPlanner({std::move(map), functions, may_fault, patched, {}}, policy, nullptr);
    }
    Judgement judge(unsigned offset = 0) const { return planner().judge(at_page + offset); }
    Refusal refusal(unsigned offset = 0) const { return judge(offset).refusal; }
};

TEST(HookPlanner, OneInstructionIfItIsLongEnough) {
    Made made{{0x48, 0x89, 0xe5, 0xc3, 0xcc}};
    EXPECT_EQ(made.judge().displaced, 1);
    auto plan = made.planner().plan(start);
    ASSERT_TRUE(plan) << plan.error().message();
    EXPECT_EQ(plan->bytes.size(), 3u);
    EXPECT_EQ(plan->end(), start + 3);
}

TEST(HookPlanner, AShortOneTakesItsSuccessor) {
    Made made{{0x55, 0x48, 0x89, 0xe5, 0xc3, 0xcc}};
    EXPECT_EQ(made.judge().displaced, 2);
    EXPECT_EQ(made.planner().plan(start)->bytes.size(), 4u);
    // A return leads away: what stands behind it stays.
    EXPECT_EQ(made.judge(4).displaced, 1);
    EXPECT_EQ(made.planner().plan(start + 4)->bytes.size(), 1u);
}

TEST(HookPlanner, NothingMayComeBetweenTheTwoBytes) {
    // je to the mov behind the push
    Made made{{0x55, 0x48, 0x89, 0xe5, 0x74, 0xfb, 0xc3}};
    EXPECT_EQ(made.refusal(), Refusal::jump_target);
    EXPECT_EQ(made.refusal(1), Refusal::none);
    // je to the push itself
    made.code[5] = 0xfa;
    EXPECT_EQ(made.refusal(), Refusal::none);
    // A table leads there; a pointer would be noted in the same way.
    made.targets = {start + 1};
    EXPECT_EQ(made.refusal(), Refusal::jump_target);
    // Into the middle of a longer one: only its second byte is overwritten.
    made.targets = {start + 2};
    EXPECT_EQ(made.refusal(1), Refusal::jumped_into);
    made.targets = {start + 3};
    EXPECT_EQ(made.refusal(1), Refusal::none);
}

TEST(HookPlanner, ReturnsBeforeSomethingElse) {
    EXPECT_EQ((Made{{0xc3, 0xcc, 0xcc}}.refusal()), Refusal::none);
    EXPECT_EQ((Made{{0xc3, 0x90, 0xc3}}.refusal()), Refusal::none);
    Made made{{0x74, 0x01, 0xc3, 0x90, 0xc3, 0xcc}}; // je behind the ret
    EXPECT_EQ(made.refusal(2), Refusal::jump_target);
    EXPECT_EQ((Made{{0xc3, 0x55, 0xc3}, {start, start + 1}}.refusal()), Refusal::no_successor);
    EXPECT_EQ((Made{{0x90, 0xc3}}.refusal(1)), Refusal::no_successor);
    EXPECT_EQ((Made{{0x90, 0x90}}.refusal(1)), Refusal::no_successor);
}

TEST(HookPlanner, ComputedJumpsMayLeadAnywhere) {
    Made made{{0x55, 0x48, 0x89, 0xe5, 0xff, 0xe0, 0xcc}};
    EXPECT_EQ(made.refusal(), Refusal::computed_jump);
    EXPECT_EQ(made.refusal(1), Refusal::none);
    // But not to padding.
    EXPECT_EQ((Made{{0xff, 0xe0, 0xc3, 0xcc}}.refusal(2)), Refusal::none);
}

TEST(HookPlanner, SuccessorsThatCannotBeDisplaced) {
    Made made{{0x55, 0x0f, 0x0b}};
    EXPECT_EQ(made.refusal(), Refusal::successor);
    EXPECT_EQ(made.judge().successor, Refusal::trap);
    auto plan = made.planner().plan(start);
    ASSERT_FALSE(plan);
    EXPECT_EQ(plan.error().message(),
              "0xffffffff81000000 cannot be hooked: it is one byte long and the instruction behind "
              "it cannot be displaced (`push rbp`); of `ud2`: it raises an exception, and the "
              "kernel looks up at which address");
}

TEST(HookPlanner, WhatStiShieldsIsTakenAlong) {
    Made made{{0x53, 0xfb, 0x31, 0xc0, 0xc3, 0xcc}}; // push rbx; sti; xor eax, eax
    EXPECT_EQ(made.judge().displaced, 3);
    EXPECT_EQ(made.judge(1).displaced, 2);
    EXPECT_EQ((Made{{0xfb, 0xf4, 0xc3}}.judge().successor), Refusal::waits); // sti; hlt
    EXPECT_EQ((Made{{0x53, 0xfb, 0xf4, 0xc3}}.judge().successor), Refusal::waits);
    EXPECT_EQ((Made{{0xfb, 0xfb, 0xfb, 0xfb, 0xfb, 0xc3}}.refusal()), Refusal::encoding);
}

TEST(HookPlanner, OffsetsInsideNameTheNeighbours) {
    Made made{{0x55, 0x48, 0x89, 0xe5, 0xc3, 0xcc}};
    EXPECT_EQ(made.refusal(2), Refusal::inside_instruction);
    EXPECT_EQ(made.planner().plan(start + 2).error().message(),
              "0xffffffff81000002 cannot be hooked: it is inside an instruction (`mov rbp, rsp` "
              "begins at 0xffffffff81000001, the next one, `ret`, at 0xffffffff81000004)");
}

TEST(HookPlanner, WhatTheKernelDoesWithAPlace) {
    Made made{{0x90, 0x90, 0x48, 0x8b, 0x07, 0xc3, 0xcc}}; // nop; nop; mov rax, [rdi]
    made.may_fault = {start + 2};
    EXPECT_EQ(made.refusal(2), Refusal::exception_table);
    EXPECT_EQ(made.judge(1).successor, Refusal::exception_table);
    made.may_fault = {start, start + 1}; // which cannot fault
    EXPECT_EQ(made.refusal(), Refusal::none);
    made.patched = {{start + 2, Refusal::static_key}};
    EXPECT_EQ(made.refusal(2), Refusal::static_key);
    EXPECT_EQ(made.judge(1).successor, Refusal::static_key);
    // Also where the successor is not displaced, but its first byte would be overwritten.
    made.may_fault = {};
    made.code = {0x90, 0xc3, 0x66, 0x90};
    EXPECT_EQ(made.refusal(1), Refusal::jump_target);
}

TEST(HookPlanner, ByCallOnlyOnAWholeNopOfFtrace) {
    Made made{{0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3, 0xcc}};
    made.policy.call_gate = true;
    EXPECT_EQ(made.refusal(), Refusal::ftrace) << "ftrace does not say that the place is its own";
    made.patched = {{start, Refusal::ftrace}};
    Judgement judgement = made.judge();
    EXPECT_EQ(judgement.refusal, Refusal::none);
    EXPECT_EQ(judgement.gate, Gate::call);
    auto plan = made.planner().plan(start);
    ASSERT_TRUE(plan) << plan.error().message();
    EXPECT_EQ(plan->gate, Gate::call);
    EXPECT_EQ(plan->bytes.size(), call_hook_size);
    made.targets = {start + 4};
    EXPECT_EQ(made.refusal(), Refusal::jumped_into);
    made.targets = {start + 5};
    EXPECT_EQ(made.refusal(), Refusal::none);
    made.function = Refusal::noinstr;
    EXPECT_EQ(made.refusal(), Refusal::noinstr);
    made.function = Refusal::none;
    made.policy.call_gate = false;
    EXPECT_EQ(made.refusal(), Refusal::ftrace);
    made.policy.call_gate = true;
    made.patched = {{start, Refusal::static_key}};
    EXPECT_EQ(made.refusal(), Refusal::static_key);
}

TEST(HookPlanner, PlacesOfFtraceWithoutItsList) {
    Made entry{{0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3, 0xcc}};
    EXPECT_EQ(entry.refusal(), Refusal::ftrace);
    Made marked{{0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3, 0xcc}};
    EXPECT_EQ(marked.refusal(), Refusal::none);
    EXPECT_EQ(marked.refusal(4), Refusal::ftrace);
    marked.policy.branch_tracking = true;
    EXPECT_EQ(marked.refusal(), Refusal::endbr);
    Made sealed{{0x66, 0x0f, 0x1f, 0x00, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3, 0xcc}};
    EXPECT_EQ(sealed.refusal(4), Refusal::ftrace);
    Made later{{0x55, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0xc3, 0xcc}};
    EXPECT_EQ(later.refusal(1), Refusal::none);
}

TEST(HookPlanner, LostLockPrefix) {
    EXPECT_EQ((Made{{0x3e, 0xff, 0x07}}.refusal()), Refusal::cpu_feature); // ds inc [rdi]
    EXPECT_EQ((Made{{0xf0, 0xff, 0x07}}.refusal()), Refusal::none);
}

TEST(HookPlanner, PlacesThatAreOffLimits) {
    Made made{{0x48, 0x89, 0xe5, 0xc3}};
    for (Refusal limit : {Refusal::entry_code, Refusal::noinstr, Refusal::other_mappings}) {
        made.function = limit;
        EXPECT_EQ(made.refusal(), limit);
        EXPECT_EQ(made.refusal(1), limit);
    }
    made.function = Refusal::noinstr;
    made.policy.noinstr = true;
    EXPECT_EQ(made.refusal(), Refusal::none);
    EXPECT_EQ(made.refusal(100), Refusal::not_kernel_text);
    EXPECT_EQ((Made{{0x48, 0x89, 0xe5, 0x0f, 0x01, 0xf8}}.refusal()), Refusal::gs_window);
}

TEST(HookPlanner, PaddingAndForeignTraps) {
    Made made{{0xc3, 0xcc, 0xcc}};
    EXPECT_EQ(made.refusal(1), Refusal::padding);
    EXPECT_EQ(made.refusal(2), Refusal::padding);
    Made probed{{0x55, 0xcc, 0x89, 0xe5, 0xc3}};
    EXPECT_EQ(probed.refusal(1), Refusal::breakpoint);
    EXPECT_EQ(probed.refusal(2), Refusal::unclear_code);
    Made hooked{{0x55, 0xcd, 0x14, 0xe5, 0xc3}};
    EXPECT_EQ(hooked.refusal(1), Refusal::hooked_already);
    Made twice{{0xcd, 0x14, 0xcd, 0x14, 0xc3}};
    EXPECT_EQ(twice.refusal(2), Refusal::hooked_already);
    EXPECT_EQ((Made{{0x90, 0x90, 0x06}}.refusal(2)), Refusal::no_instruction);
}

TEST(HookPlanner, TwoPages) {
    Made made{{0x48, 0x89, 0xe5, 0xc3, 0xcc}, {start + 0xfff}};
    made.at_page = start + 0xfff;
    EXPECT_EQ(made.refusal(), Refusal::page_crossing);
    // Only the hook's own bytes have to be on one page.
    made.entries = {start + 0xffe};
    made.at_page = start + 0xffe;
    EXPECT_EQ(made.refusal(), Refusal::none);
}

Refusal move(std::initializer_list<int> values) {
    std::vector<std::byte> bytes;
    for (int value : values)
        bytes.push_back(static_cast<std::byte>(value));
    auto instruction = Instruction::decode(start, bytes);
    EXPECT_TRUE(instruction && instruction->length() == bytes.size());
    return instruction ? judge_move(*instruction) : Refusal::no_instruction;
}

TEST(Movable, RefusedWithTheirReasons) {
    EXPECT_EQ(move({0xcd, 0x14}), Refusal::hooked_already);
    EXPECT_EQ(move({0xcd, 0x80}), Refusal::trap);
    EXPECT_EQ(move({0x0f, 0x0b}), Refusal::trap);                           // ud2
    EXPECT_EQ(move({0x67, 0x0f, 0xb9, 0x40, 0x02}), Refusal::trap);         // ud1
    EXPECT_EQ(move({0xf1}), Refusal::trap);                                 // int1
    EXPECT_EQ(move({0x0f, 0x05}), Refusal::far_transfer);                   // syscall
    EXPECT_EQ(move({0x48, 0x0f, 0x07}), Refusal::far_transfer);             // sysretq
    EXPECT_EQ(move({0x48, 0xcf}), Refusal::far_transfer);                   // iretq
    EXPECT_EQ(move({0x48, 0xcb}), Refusal::far_transfer);                   // retfq
    EXPECT_EQ(move({0xff, 0x68, 0x10}), Refusal::far_transfer);             // jmp far
    EXPECT_EQ(move({0x0f, 0x01, 0xf8}), Refusal::per_cpu_base);             // swapgs
    EXPECT_EQ(move({0x8e, 0xe8}), Refusal::per_cpu_base);                   // mov gs, eax
    EXPECT_EQ(move({0xf3, 0x48, 0x0f, 0xae, 0xd8}), Refusal::per_cpu_base); // wrgsbase
    EXPECT_EQ(move({0xf4}), Refusal::waits);                                // hlt
    EXPECT_EQ(move({0x0f, 0x01, 0xc9}), Refusal::waits);                    // mwait
    EXPECT_EQ(move({0x8e, 0xd0}), Refusal::interrupt_shadow);               // mov ss, eax
    EXPECT_EQ(move({0x9d}), Refusal::interrupt_flag);                       // popfq
    EXPECT_EQ(move({0x0f, 0x22, 0xd8}), Refusal::page_tables);              // mov cr3, rax
    EXPECT_EQ(move({0x0f, 0x22, 0xc0}), Refusal::page_tables);              // mov cr0, rax
    EXPECT_EQ(move({0x0f, 0x01, 0x1f}), Refusal::descriptor_table);         // lidt
    EXPECT_EQ(move({0x0f, 0x00, 0xd8}), Refusal::descriptor_table);         // ltr
    EXPECT_EQ(move({0x0f, 0x01, 0x0f}), Refusal::emulated);                 // sidt
    EXPECT_EQ(move({0xf3, 0x6c}), Refusal::emulated);                       // rep insb
    EXPECT_EQ(move({0x0f, 0x01, 0xc1}), Refusal::hypervisor);               // vmcall
    EXPECT_EQ(move({0x0f, 0x01, 0xd4}), Refusal::hypervisor);               // vmfunc
    EXPECT_EQ(move({0x0f, 0x01, 0xc2}), Refusal::hypervisor);               // vmlaunch
    EXPECT_EQ(move({0xc7, 0xf8, 0, 0, 0, 0}), Refusal::transaction);        // xbegin
    EXPECT_EQ(move({0xdf, 0x2f}), Refusal::fpu_address);                    // fild
    EXPECT_EQ(move({0xe8, 1, 0, 0, 0}), Refusal::speculation);              // call over an INT3
    EXPECT_EQ(move({0x66, 0xe9, 0, 0, 0, 0}), Refusal::encoding);           // data16 jmp
    EXPECT_EQ(move({0xf2, 0xe1, 0x10}), Refusal::encoding);                 // repne loope
    EXPECT_EQ(move({0xff, 0xd4}), Refusal::encoding);                       // call rsp
    EXPECT_EQ(move({0xff, 0x54, 0x24, 0xf8}), Refusal::encoding);           // call [rsp-8]
    EXPECT_EQ(move({0x67, 0x8b, 0x05, 0, 0, 0, 0}), Refusal::encoding);     // mov eax, [eip]
    EXPECT_EQ(move({0x0f, 0x01, 0xdc}), Refusal::unlisted);                 // stgi
}

TEST(Movable, PrivilegedOnesThatDoTheSameAnywhere) {
    EXPECT_EQ(move({0x0f, 0x30}), Refusal::none);       // wrmsr
    EXPECT_EQ(move({0x0f, 0x22, 0xe0}), Refusal::none); // mov cr4, rax
    EXPECT_EQ(move({0x0f, 0x20, 0xd8}), Refusal::none); // mov rax, cr3
    EXPECT_EQ(move({0x0f, 0x23, 0xf8}), Refusal::none); // mov dr7, rax
    EXPECT_EQ(move({0x8e, 0xd8}), Refusal::none);       // mov ds, eax
    EXPECT_EQ(move({0xee}), Refusal::none);             // out dx, al
    EXPECT_EQ(move({0x0f, 0x01, 0x38}), Refusal::none); // invlpg
    EXPECT_EQ(move({0x0f, 0x01, 0xcb}), Refusal::none); // stac
    EXPECT_EQ(move({0x0f, 0x01, 0xef}), Refusal::none); // wrpkru
    EXPECT_EQ(move({0xfa}), Refusal::none);             // cli
    EXPECT_EQ(move({0xf3, 0x90}), Refusal::none);       // pause
    EXPECT_EQ(move({0xdb, 0xe3}), Refusal::none);       // fninit
}

TEST(Refusals, HaveNamesAndTextsOfTheirOwn) {
    std::set<std::string> names;
    std::set<std::string> texts;
    for (size_t i = 0; i < refusal_count; i++) {
        names.insert(name(static_cast<Refusal>(i)));
        texts.insert(describe(static_cast<Refusal>(i)));
    }
    EXPECT_EQ(names.size(), refusal_count);
    EXPECT_EQ(texts.size(), refusal_count);
    EXPECT_FALSE(names.contains(""));
}

} // namespace
} // namespace shadowmon
