/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Proves that registers, flags and stack come back from the gate as they were, and that it takes a
 * free slot and says how long it has it.
 */
#include "tests/unit/payload/gate_process.h"

#include <cstring>
#include <string>

namespace shadowmon::payload {
namespace {

TEST_F(Gate, EverythingComesBack) {
    for (int round = 0; round < 1000; round++) {
        const GateRegs before = random_regs();
        const u64 hook_rip = random_(), flags = random_flags();
        Frame* frame = push_frame(hook_rip, flags);
        const Frame pushed = *frame;
        GateRegs regs = before;
        regs.rsp = reinterpret_cast<u64>(frame);
        /* What the CPU does at INT: clears IF and TF; NT and the rest stay as they are. */
        events = vmfuncs = 0;
        ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        EXPECT_EQ(view, main_view);
        EXPECT_EQ(events, 1u);
        EXPECT_EQ(seen_argument, seen_tsc);
        EXPECT_EQ(vmfuncs, 2u);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, pushed.rsp);
        EXPECT_EQ(regs.rflags & user_flags, flags & user_flags);
        EXPECT_EQ(memcmp(&seen_frame, &pushed, sizeof(pushed)), 0);
        EXPECT_EQ(seen_regs.rdi, before.rdi);
        EXPECT_EQ(seen_regs.rsi, before.rsi);
        EXPECT_EQ(seen_regs.r8, before.r8);
        EXPECT_EQ(seen_regs.r9, before.r9);
        EXPECT_EQ(seen_regs.r10, before.r10);
        /* Only the arithmetic flags that the gate's own code leaves. */
        EXPECT_EQ(seen_flags & 0x40000 /* AC */, 0u);
        EXPECT_EQ(seen_flags & 0x400 /* DF */, 0u);
        /* The frame continues at the displaced code with interrupts off, else unchanged. */
        EXPECT_EQ(frame->rip, next_address);
        EXPECT_EQ(frame->rflags, pushed.rflags & ~u64{SM_ASM_RFLAGS_IF});
        EXPECT_EQ(frame->cs, pushed.cs);
        EXPECT_EQ(frame->rsp, pushed.rsp);
        EXPECT_EQ(frame->ss, pushed.ss);
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
    EXPECT_EQ(busy_slots(), 0u);
}

TEST_F(Gate, StackChoosesTheSlotToTryFirst) {
    GateRegs regs = random_regs();
    regs.rsp = reinterpret_cast<u64>(push_frame(0, random_flags()));
    const u64 hint = (regs.rsp - 24) >> SM_ASM_STACK_ALIGN_SHIFT & 3;
    ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
    EXPECT_EQ(seen_slot, slot(hint));
}

/* Of how many claims the time is taken, what comes back then, and what is left out. */
TEST_F(Gate, SamplesHowLongASlotIsHeld) {
    auto enter = [&] {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        Frame* frame = push_frame(0, random_flags());
        regs.rsp = reinterpret_cast<u64>(frame);
        EXPECT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        expect_same(regs, before);
        EXPECT_EQ(frame->rip, next_address);
    };
    auto only_slot = [&] {
        show(shadow_view);
        for (unsigned i = 1; i < 4; i++)
            slot(i)->busy = 1;
        show(main_view);
    };
    auto seen = [&] {
        show(shadow_view);
        const sm_slot copy = *slot(0);
        show(main_view);
        return copy;
    };
    only_slot();
    for (unsigned i = 0; i < 10 * SM_SAMPLE_PERIOD; i++) {
        enter();
        const sm_slot now = seen();
        EXPECT_EQ(now.sampled + now.samples_cut, i / SM_SAMPLE_PERIOD + 1);
        EXPECT_EQ(now.busy, 0u);
    }
    const sm_slot first = seen();
    /* The host may have taken the CPU away in the middle of one or the other. */
    EXPECT_GT(first.sampled, 0u);
    EXPECT_GT(first.sampled_ticks, 0u);
    EXPECT_LT(first.sampled_ticks, first.sampled * SM_SAMPLE_MAX);

    for (u64 back : {u64{SM_SAMPLE_MAX}, ~u64{1000000000}}) {
        tsc_back = back;
        const u64 cut = seen().samples_cut;
        for (unsigned i = 0; i < SM_SAMPLE_PERIOD; i++)
            enter();
        EXPECT_EQ(seen().samples_cut, cut + 1);
        EXPECT_EQ(seen().sampled_ticks, first.sampled_ticks);
    }
}

TEST_F(Gate, TakenSlotIsPassedOver) {
    for (unsigned taken = 1; taken <= 3; taken++) {
        GateRegs before = random_regs(), regs = before;
        regs.rsp = reinterpret_cast<u64>(push_frame(0, random_flags()));
        const u64 hint = (regs.rsp - 24) >> SM_ASM_STACK_ALIGN_SHIFT & 3;
        show(shadow_view);
        for (unsigned i = 0; i < 4; i++)
            slot(i)->busy = ((i - hint) & 3) < taken;
        show(main_view);
        ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        EXPECT_EQ(seen_slot, slot((hint + taken) & 3));
        expect_same(regs, before);
        EXPECT_EQ(busy_slots(), taken);
        EXPECT_EQ(sm_payload_no_slot, 0u);
    }
}

TEST_F(Gate, WithoutASlotTheIntIsTriedAgain) {
    show(shadow_view);
    for (unsigned i = 0; i < 4; i++)
        slot(i)->busy = 1;
    show(main_view);
    for (u64 flags : {0x2, 0x202, 0xad7}) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        /* Two bytes before the address of return is where the INT was. */
        Frame* frame = push_frame(reinterpret_cast<u64>(gate_landing) + 2, flags);
        const Frame pushed = *frame;
        regs.rsp = reinterpret_cast<u64>(frame);
        events = 0;
        const u64 earlier = sm_payload_no_slot;
        ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        EXPECT_EQ(events, 0u);
        EXPECT_EQ(sm_payload_no_slot, earlier + 1);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, pushed.rsp);
        EXPECT_EQ(frame->rflags, pushed.rflags) << "IF is as it was at the INT";
    }
    EXPECT_EQ(busy_slots(), 4u);
}

TEST_F(Gate, UnknownHookContinuesAfterTheInt) {
    next_address = SM_ASM_RESUME_CHAIN;
    const GateRegs before = random_regs();
    GateRegs regs = before;
    const u64 flags = random_flags();
    Frame* frame = push_frame(reinterpret_cast<u64>(gate_landing), flags);
    const Frame pushed = *frame;
    regs.rsp = reinterpret_cast<u64>(frame);
    ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
    EXPECT_EQ(view, main_view);
    expect_same(regs, before);
    EXPECT_EQ(regs.rsp, pushed.rsp);
    EXPECT_EQ(memcmp(frame, &pushed, sizeof(pushed)), 0) << "the frame is as delivered";
    EXPECT_EQ(busy_slots(), 0u);
}

TEST_F(Gate, ChainJumpIsAPatchableJump) {
    ASSERT_EQ(sm_gate_chain_jump[0], 0xe9);
    s32 rel;
    memcpy(&rel, sm_gate_chain_jump + 1, sizeof(rel));
    const u8* target = sm_gate_chain_jump + 5 + rel;
    EXPECT_EQ(memcmp(target, "\x48\xcf", 2), 0) << "iretq, as linked";
}

/*
 * Behind the pushes, as a guest may jump there: the gate gives back the flags that the guest has
 * put on its stack. The test does not go on with them: with AC its own reads would fault.
 */
TEST_F(Gate, FlagsOfTheGuestStayItsOwn) {
    constexpr u64 ac = 0x40000;
    constexpr unsigned behind_pushes = 5; /* pushfq, cli, three pushes: a byte each */
    GateRegs regs = random_regs();
    u64* at = push_return(gate_landing);
    at[-1] = SM_ASM_RFLAGS_RESERVED | ac;
    regs.rsp = reinterpret_cast<u64>(at - 4);
    ASSERT_EQ(gate_enter(&regs, sm_gate_call + behind_pushes), 0);
    u64 own;
    asm volatile("pushfq; pop %0" : "=r"(own));
    EXPECT_EQ(regs.rflags & ac, ac);
    EXPECT_EQ(own & ac, 0u);
}

TEST_F(Gate, CallComesBackToItsReturn) {
    for (int round = 0; round < 1000; round++) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        u64* at = push_return(gate_landing);
        const u64 above = at[1] = random_();
        regs.rsp = reinterpret_cast<u64>(at);
        events = vmfuncs = 0;
        was_sti = false;
        guest_masked = round % 2;
        ASSERT_EQ(gate_enter(&regs, sm_gate_call), 0);
        EXPECT_EQ(view, main_view);
        EXPECT_EQ(events, 1u);
        EXPECT_EQ(seen_argument, seen_tsc);
        EXPECT_EQ(vmfuncs, 2u);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, reinterpret_cast<u64>(at + 1));
        EXPECT_EQ(at[1], above);
        EXPECT_EQ(regs.rflags & user_flags, before.rflags & user_flags);
        EXPECT_EQ(was_sti, !guest_masked) << "interrupts are on again where they were on";
        EXPECT_EQ(seen_return, reinterpret_cast<u64>(gate_landing));
        EXPECT_EQ(seen_regs.rdi, before.rdi);
        EXPECT_EQ(seen_regs.rsi, before.rsi);
        EXPECT_EQ(seen_regs.r8, before.r8);
        EXPECT_EQ(seen_regs.r9, before.r9);
        EXPECT_EQ(seen_flags & 0x40400 /* AC, DF */, 0u);
        const u64 hint = (reinterpret_cast<u64>(at) - SM_ASM_CALL_RIP) >> SM_ASM_STACK_ALIGN_SHIFT;
        EXPECT_EQ(seen_slot, slot(hint & 3));
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
    EXPECT_EQ(busy_slots(), 0u);
}

TEST_F(Gate, CallPassesOverTakenSlots) {
    for (unsigned taken = 1; taken <= 3; taken++) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        u64* at = push_return(gate_landing);
        regs.rsp = reinterpret_cast<u64>(at);
        const u64 hint = (regs.rsp - SM_ASM_CALL_RIP) >> SM_ASM_STACK_ALIGN_SHIFT & 3;
        show(shadow_view);
        for (unsigned i = 0; i < 4; i++)
            slot(i)->busy = ((i - hint) & 3) < taken;
        show(main_view);
        ASSERT_EQ(gate_enter(&regs, sm_gate_call), 0);
        EXPECT_EQ(seen_slot, slot((hint + taken) & 3));
        expect_same(regs, before);
        EXPECT_EQ(busy_slots(), taken);
    }
}

TEST_F(Gate, WithoutASlotTheCallIsTriedAgain) {
    show(shadow_view);
    for (unsigned i = 0; i < 4; i++)
        slot(i)->busy = 1;
    show(main_view);
    for (bool masked : {false, true}) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        /* Five bytes before the address of return is where the CALL was. */
        u64* at = push_return(gate_landing + SM_ASM_CALL_LENGTH);
        regs.rsp = reinterpret_cast<u64>(at);
        const u64 earlier = sm_payload_no_slot;
        events = 0;
        was_sti = false;
        guest_masked = masked;
        ASSERT_EQ(gate_enter(&regs, sm_gate_call), 0);
        EXPECT_EQ(events, 0u);
        EXPECT_EQ(sm_payload_no_slot, earlier + 1);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, reinterpret_cast<u64>(at + 1)) << "the CALL pushes it anew";
        EXPECT_EQ(regs.rflags & user_flags, before.rflags & user_flags);
        EXPECT_EQ(was_sti, !masked) << "a drain and interrupts get in between";
    }
    EXPECT_EQ(busy_slots(), 4u);
}

} // namespace
} // namespace shadowmon::payload
