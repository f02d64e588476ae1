/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One entry into the gate: which event it makes, byte for byte, and where the guest continues. */
#include "tests/unit/payload/handler_fixture.h"

#include <rapidcheck/gtest.h>

#include <random>

namespace shadowmon::payload::test {
namespace {

TEST_F(HandlerTest, SyscallEnter) {
    EXPECT_EQ(hit(enter_rip), enter_rip + 0x1000000);
    const auto e = first<sm_event_syscall_enter>();
    expect_header(e.h, SM_EVENT_SYSCALL_ENTER, 0, 136, 1);
    expect_cat(e.h);
    EXPECT_EQ(e.b.nr, 1u);
    const u64 base = 0xaaaa000000000000;
    /* di, si, dx, r10, r8, r9 by their index in pt_regs */
    const u64 expected[6] = {base + 14, base + 13, base + 12, base + 7, base + 9, base + 8};
    EXPECT_EQ(memcmp(e.b.args, expected, sizeof(expected)), 0);
    EXPECT_EQ(m.slot().claims, 1u);
    EXPECT_EQ(m.slot().tsc, tsc);
    EXPECT_EQ(m.slot().unknown, 0u);
}

TEST_F(HandlerTest, NumberIsAnInt) {
    m.write(regs_at + offsetof(PtRegs, orig_ax), u64{0xdeadbeefffffffff});
    hit(enter_rip);
    EXPECT_EQ(first<sm_event_syscall_enter>().b.nr, ~u64{0});
}

TEST_F(HandlerTest, ContinuesWithInterruptsOffWhereTheyWereOff) {
    EXPECT_EQ(hit(enter_rip, regs_at, 0, interrupts_off), enter_rip + 0x2000000);
}

TEST_F(HandlerTest, SyscallExit) {
    m.write(regs_at + offsetof(PtRegs, ax), s64{-2});
    EXPECT_EQ(hit(exit_rip), exit_rip + 0x1000000);
    const auto e = first<sm_event_syscall_exit>();
    expect_header(e.h, SM_EVENT_SYSCALL_EXIT, 0, 96, 2);
    expect_cat(e.h);
    EXPECT_EQ(e.b.nr, 1u);
    EXPECT_EQ(e.b.ret, -2);
}

TEST_F(HandlerTest, CompatEnter) {
    EXPECT_EQ(hit(compat_rip), compat_rip + 0x1000000);
    const auto e = first<sm_event_syscall_enter>();
    expect_header(e.h, SM_EVENT_SYSCALL_ENTER, SM_EVENT_COMPAT, 136, 4);
    expect_cat(e.h);
    EXPECT_EQ(e.b.nr, 1u);
    /* bx, cx, dx, si, di, bp, lower halves */
    const u64 expected[6] = {5, 11, 12, 13, 14, 4};
    EXPECT_EQ(memcmp(e.b.args, expected, sizeof(expected)), 0);
}

TEST_F(HandlerTest, CompatEnterWithItsNumberStillInAx) {
    m.write(regs_at + offsetof(PtRegs, orig_ax), ~u64{0});
    m.write(regs_at + offsetof(PtRegs, ax), u64{0xaaaa000000000014});
    hit(int80_rip);
    const auto e = first<sm_event_syscall_enter>();
    expect_header(e.h, SM_EVENT_SYSCALL_ENTER, SM_EVENT_COMPAT, 136, 6);
    EXPECT_EQ(e.b.nr, 0x14u);
}

TEST_F(HandlerTest, CompatExit) {
    hit(compat_exit_rip);
    const auto e = first<sm_event_syscall_exit>();
    expect_header(e.h, SM_EVENT_SYSCALL_EXIT, SM_EVENT_COMPAT, 96, 5);
    EXPECT_EQ(e.b.ret, static_cast<s64>(0xaaaa00000000000a));
}

TEST_F(HandlerTest, Switch) {
    EXPECT_EQ(hit(switch_rip, task, next_task), switch_rip + 0x1000000);
    const auto e = first<sm_event_switch>();
    expect_header(e.h, SM_EVENT_SWITCH, 0, 120, 3);
    expect_cat(e.h);
    EXPECT_EQ(e.b.next_task, next_task);
    EXPECT_EQ(e.b.next_tid, 2002u);
    EXPECT_EQ(e.b.next_pid, 2000u);
    EXPECT_EQ(e.b.prev_state, 1u);
    EXPECT_EQ(memcmp(e.b.next_comm, "sixteen-letters!", 16), 0) << "without a NUL";
}

TEST_F(HandlerTest, OwnHook) {
    m.write(frame_at - 24, u64{0xd}); /* rdx, rcx, rax, as the gate pushes them */
    m.write(frame_at - 16, u64{0xc});
    m.write(frame_at - 8, u64{0xa});
    EXPECT_EQ(hit(own_rip, 0xd1, 0x51, interrupts_off), own_rip + 0x2000000);
    const auto e = first<sm_event_hook>();
    expect_header(e.h, SM_EVENT_HOOK, 0, 152, 7);
    expect_cat(e.h);
    const u64 expected[6] = {0xd1, 0x51, 0xd, 0xc, 8, 9};
    EXPECT_EQ(memcmp(e.b.args, expected, sizeof(expected)), 0);
    EXPECT_EQ(e.b.ax, 0xau);
    EXPECT_EQ(e.b.sp, frame_at + 40);
    EXPECT_EQ(e.b.flags, interrupts_off);
}

TEST_F(HandlerTest, OwnHookByCall) {
    constexpr u64 call_rip = 0xffffffff9a100705;
    m.add_hook(call_rip, 8, SM_EVENT_HOOK, SM_HOOK_CALL);
    for (int complete = 0; complete < 2; complete++) {
        m.ring() = {};
        if (complete) /* a ring that is new takes the other way first */
            m.slot() = {};
        m.write(frame_at - 32, u64{0xd}); /* rdx, rcx, rax, as the gate pushes them */
        m.write(frame_at - 24, u64{0xc});
        m.write(frame_at - 16, u64{0xa});
        call(call_rip, 0xd1, 0x51, interrupts_off);
        const auto e = first<sm_event_hook>();
        expect_header(e.h, SM_EVENT_HOOK, 0, 152, 8);
        expect_cat(e.h);
        const u64 expected[6] = {0xd1, 0x51, 0xd, 0xc, 8, 9};
        EXPECT_EQ(memcmp(e.b.args, expected, sizeof(expected)), 0);
        EXPECT_EQ(e.b.ax, 0xau);
        EXPECT_EQ(e.b.sp, frame_at + 8) << "as it is at the site";
        EXPECT_EQ(e.b.flags, interrupts_off);
    }
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 8), 2u);
}

TEST_F(HandlerTest, OtherEventsByCall) {
    constexpr u64 enter_call = 0xffffffff9a100805, switch_call = 0xffffffff9a100905;
    m.add_hook(enter_call, 8, SM_EVENT_SYSCALL_ENTER, SM_HOOK_CALL | SM_HOOK_COMPAT);
    m.add_hook(switch_call, 9, SM_EVENT_SWITCH, SM_HOOK_CALL | SM_HOOK_LIMITED);
    m.limits_[9] = {0, u64{1} << 32, 2, {}};
    call(enter_call);
    expect_header(first<sm_event_syscall_enter>().h, SM_EVENT_SYSCALL_ENTER, SM_EVENT_COMPAT, 136,
                  8);
    for (int i = 0; i < 5; i++)
        call(switch_call, task, next_task);
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 9), 2u);
    EXPECT_EQ(m.counter(SM_COUNTER_LIMITED, 9), 3u);
}

/* What a hook of one gate left is no hook of the other's, as the guest might pretend. */
TEST_F(HandlerTest, EntryByTheWrongGate) {
    constexpr u64 call_rip = 0xffffffff9a100705;
    m.add_hook(call_rip, 8, SM_EVENT_HOOK, SM_HOOK_CALL);
    m.add_hook(call_rip + 64, 9, SM_EVENT_HOOK, SM_HOOK_CALL | SM_HOOK_LIMITED);
    u64 unknown = 0;
    for (u64 rip : {call_rip, call_rip + 64, u64{0}, u64{SM_HOOK_REMOVED}}) {
        EXPECT_EQ(hit(rip), u64{SM_ASM_RESUME_CHAIN});
        EXPECT_EQ(m.slot().unknown, ++unknown);
    }
    for (u64 rip : {enter_rip, own_rip, u64{0}, u64{SM_HOOK_REMOVED}, u64{0x1234}}) {
        call(rip);
        EXPECT_EQ(m.slot().unknown, ++unknown);
    }
    EXPECT_EQ(m.ring().recorded[SM_EVENT_UNKNOWN_HOOK], unknown);
    for (u32 id = 0; id < FakeMachine::capacity; id++)
        EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, id), 0u);
}

TEST_F(HandlerTest, CallFramesThatCannotBeRead) {
    for (u64 rsp : {u64{0}, ~u64{0}, u64{0x8000000000000000}, u64{0x7fff12345678},
                    u64{0xfffffffffffffff0}, FakeMachine::direct_map - 64}) {
        m.ring() = {};
        m.slot() = {};
        m.slot().guest_rsp = rsp;
        handle<CallEntry>();
        const auto e = first<EventUnknown>();
        expect_header(e.h, SM_EVENT_UNKNOWN_HOOK, SM_EVENT_NO_BODY, 96, no_hook_id);
        EXPECT_EQ(e.b.rsp, rsp + SM_ASM_CALL_RIP);
    }
}

TEST_F(HandlerTest, TaskWhoseIdsAreNotNeighbours) {
    m.config_.offsets.task_tgid = 0x9a8;
    m.write(task + 0x9a8, u32{1000});
    m.write(parent + 0x9a8, u32{899});
    hit(enter_rip);
    expect_cat(first<sm_event_syscall_enter>().h);
}

TEST_F(HandlerTest, IdleTaskInTheKernelImage) {
    const u64 init_task = FakeMachine::kernel_image + 0x20000;
    m.make_task(init_task, 0, 0, init_task, 0, "swapper/0");
    EXPECT_EQ(hit(switch_rip, init_task, next_task), switch_rip + 0x1000000);
    const auto e = first<sm_event_switch>();
    expect_header(e.h, SM_EVENT_SWITCH, 0, 120, 3);
    EXPECT_EQ(e.h.task, init_task);
    EXPECT_STREQ(e.h.comm, "swapper/0");
    EXPECT_EQ(e.b.next_tid, 2002u);
}

TEST_F(HandlerTest, TaskInTheSecondRangeOfRam) {
    const u64 high = FakeMachine::direct_map + FakeMachine::high_ram + 0x5000;
    m.make_task(high, 5, 6, parent, 7, "high");
    hit(switch_rip, task, high);
    EXPECT_STREQ(first<sm_event_switch>().b.next_comm, "high");
}

TEST_F(HandlerTest, FirstWindowThatHoldsNoTask) {
    std::swap(m.config_.windows[0], m.config_.windows[1]);
    m.config_.windows[0].size = 8;
    hit(enter_rip);
    expect_cat(first<sm_event_syscall_enter>().h);
}

TEST_F(HandlerTest, RegistersThatAreNotOnThisStackAreWalkedTo) {
    const u64 elsewhere = 0xffffc90000800000 + SM_PAGE_SIZE - 64; /* across two pages */
    m.map(0xffffc90000800000, 0x900000, 12);
    m.map(0xffffc90000801000, 0xa00000, 12);
    for (u64 i = 0; i < sizeof(PtRegs) / 8; i++) {
        const u64 at = elsewhere + 8 * i;
        m.write_gpa((at & 0x1000 ? 0xa00000 : 0x900000) + at % SM_PAGE_SIZE,
                    0xaaaa000000000000 + i);
    }
    hit(enter_rip, elsewhere);
    const auto e = first<sm_event_syscall_enter>();
    expect_header(e.h, SM_EVENT_SYSCALL_ENTER, 0, 136, 1);
    EXPECT_EQ(e.b.nr, 15u);
    EXPECT_EQ(e.b.args[0], 0xaaaa00000000000eu);
    EXPECT_EQ(e.b.args[3], 0xaaaa000000000007u);
}

TEST_F(HandlerTest, HostileRegisterPointers) {
    for (u64 rdi :
         {u64{0}, ~u64{0}, u64{0x8000000000000000}, u64{0xffffc90000900000},
          FakeMachine::stack + stack_block_size - 8, 0xffffffffffffffff - sizeof(PtRegs)}) {
        m.ring() = {};
        m.slot() = {};
        EXPECT_EQ(hit(enter_rip, rdi), enter_rip + 0x1000000);
        const auto e = first<sm_event_syscall_enter>();
        expect_header(e.h, SM_EVENT_SYSCALL_ENTER, SM_EVENT_NO_BODY, 136, 1);
        expect_cat(e.h);
        const sm_body_syscall_enter nothing{};
        EXPECT_EQ(memcmp(&e.b, &nothing, sizeof(nothing)), 0) << std::hex << rdi;
    }
    m.ring() = {};
    m.slot() = {};
    hit(exit_rip, 0);
    expect_header(first<sm_event_syscall_exit>().h, SM_EVENT_SYSCALL_EXIT, SM_EVENT_NO_BODY, 96, 2);
    m.ring() = {};
    m.slot() = {};
    hit(compat_rip, 0);
    expect_header(first<sm_event_syscall_enter>().h, SM_EVENT_SYSCALL_ENTER,
                  SM_EVENT_NO_BODY | SM_EVENT_COMPAT, 136, 4);
}

TEST_F(HandlerTest, HostileCurrentPointers) {
    for (u64 current : {u64{0}, ~u64{0}, u64{0xdead000000000100},
                        FakeMachine::direct_map + FakeMachine::ram_size - 0x100,
                        FakeMachine::direct_map - 0x100, u64{0x7fff00000000}}) {
        m.ring() = {};
        m.slot() = {};
        m.set_current(current);
        EXPECT_EQ(hit(enter_rip), enter_rip + 0x1000000);
        const auto e = first<sm_event_syscall_enter>();
        expect_no_task(e.h, current);
        EXPECT_EQ(e.b.nr, 1u) << "the body is not the task's";
    }
}

TEST_F(HandlerTest, HostileGsBase) {
    for (u64 gs :
         {u64{0}, ~u64{0}, u64{0x8000000000000000}, FakeMachine::direct_map - 0x20c0 - 1}) {
        m.ring() = {};
        m.slot() = {};
        m.gs_base_ = gs;
        hit(enter_rip);
        expect_no_task(first<sm_event_syscall_enter>().h, 0);
    }
}

TEST_F(HandlerTest, HostilePointersInATask) {
    const sm_offsets& o = m.config_.offsets;
    for (u32 field : {o.task_real_parent, o.task_cred}) {
        for (u64 pointer : {u64{0}, ~u64{0}, u64{0x8000000000000000}}) {
            m.make_task(task, 1001, 1000, parent, 33, "cat");
            m.write(task + field, pointer);
            m.ring() = {};
            m.slot() = {};
            hit(enter_rip);
            expect_no_task(first<sm_event_syscall_enter>().h, task);
        }
    }
}

TEST_F(HandlerTest, HostileSwitch) {
    EXPECT_EQ(hit(switch_rip, ~u64{0}, next_task), switch_rip + 0x1000000);
    auto e = first<sm_event_switch>();
    expect_no_task(e.h, ~u64{0});
    EXPECT_EQ(e.h.flags, SM_EVENT_NO_TASK | SM_EVENT_NO_BODY);
    m.ring() = {};
    m.slot() = {};
    hit(switch_rip, task, 0x8000000000000000);
    e = first<sm_event_switch>();
    expect_cat(e.h);
    EXPECT_EQ(e.h.flags, SM_EVENT_NO_BODY);
    const sm_body_switch nothing{};
    EXPECT_EQ(memcmp(&e.b, &nothing, sizeof(nothing)), 0);
}

TEST_F(HandlerTest, UnknownHook) {
    EXPECT_EQ(hit(0xffffffff9a200000), u64{SM_ASM_RESUME_CHAIN});
    const auto e = first<EventUnknown>();
    expect_header(e.h, SM_EVENT_UNKNOWN_HOOK, 0, 96, no_hook_id);
    expect_cat(e.h);
    EXPECT_EQ(e.b.rip, 0xffffffff9a200000u);
    EXPECT_EQ(e.b.rsp, frame_at);
    EXPECT_EQ(m.slot().unknown, 1u);
}

TEST_F(HandlerTest, FramesThatCannotBeRead) {
    for (u64 rsp : {u64{0}, ~u64{0}, u64{0x8000000000000000}, u64{0x7fff12345678},
                    u64{0xfffffffffffffff0}, FakeMachine::direct_map - 64}) {
        m.ring() = {};
        m.slot() = {};
        m.slot().guest_rsp = rsp;
        EXPECT_EQ(handle<IntEntry>(), u64{SM_ASM_RESUME_CHAIN});
        const auto e = first<EventUnknown>();
        expect_header(e.h, SM_EVENT_UNKNOWN_HOOK, SM_EVENT_NO_BODY, 96, no_hook_id);
        EXPECT_EQ(e.b.rip, 0u);
    }
}

TEST_F(HandlerTest, FrameAcrossTwoBlocksIsWalkedTo) {
    /* The next block is mapped in the tables only, so a load there would fault. */
    const u64 end = FakeMachine::stack + stack_block_size;
    m.map(end, 0xb00000, 12);
    m.write_gpa(0xb00000, u64{0x46}); /* rflags, at frame + 16 */
    m.write(end - 16, enter_rip);
    m.slot().guest_rsp = end - 16 - SM_ASM_FRAME_RIP;
    m.saved_ = {0, regs_at, 0, 0, 0};
    EXPECT_EQ(handle<IntEntry>(), enter_rip + 0x2000000);
    EXPECT_EQ(first<sm_event_syscall_enter>().h.flags, 0);
}

TEST_F(HandlerTest, HookOfATypeThatIsNotKnownIsPassedThrough) {
    m.add_hook(0xffffffff9a300000, 9, SM_EVENT_TYPES - 1);
    EXPECT_EQ(hit(0xffffffff9a300000), 0xffffffff9a300000 + 0x1000000);
    EXPECT_EQ(m.ring().head, 0u);
}

TEST_F(HandlerTest, LostEventsStillContinue) {
    u64 n = 0;
    while (m.ring().lost[SM_EVENT_SYSCALL_ENTER] == 0) {
        EXPECT_EQ(hit(enter_rip), enter_rip + 0x1000000);
        ASSERT_LT(++n, 100u);
    }
    EXPECT_EQ(hit(switch_rip, task, next_task), switch_rip + 0x1000000);
    EXPECT_EQ(hit(0x1234), u64{SM_ASM_RESUME_CHAIN});
    EXPECT_EQ(m.ring().lost[SM_EVENT_SWITCH], 1u);
    EXPECT_EQ(m.ring().lost[SM_EVENT_UNKNOWN_HOOK], 1u);
    EXPECT_EQ(m.ring().seq, n + 2);
}

TEST_F(HandlerTest, CountsWhatBecameOfEveryHit) {
    u64 n = 0;
    for (; m.ring().lost[SM_EVENT_SYSCALL_ENTER] == 0; n++)
        hit(enter_rip);
    hit(switch_rip, task, next_task);
    hit(0x1234);
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 1), n - 1);
    EXPECT_EQ(m.counter(SM_COUNTER_LOST, 1), 1u);
    EXPECT_EQ(m.counter(SM_COUNTER_LOST, 3), 1u);
    u64 all = 0;
    for (u32 id = 0; id < FakeMachine::capacity; id++)
        for (sm_counter kind : {SM_COUNTER_RECORDED, SM_COUNTER_LOST, SM_COUNTER_LIMITED})
            all += m.counter(kind, id);
    EXPECT_EQ(all, n + 1) << "and nothing else";
}

TEST_F(HandlerTest, EachSlotHasCountersOfItsOwn) {
    for (u32 i : {0, 1, 1}) {
        m.enter(frame_at, enter_rip, interrupts_on, regs_at, 0);
        m.slot(i).guest_rsp = m.slot().guest_rsp;
        handle<IntEntry>(i);
    }
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 1, 0), 1u);
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 1, 1), 2u);
}

TEST_F(HandlerTest, LimitedHook) {
    constexpr u64 limited_rip = 0xffffffff9a100712;
    m.add_hook(limited_rip, 8, SM_EVENT_SYSCALL_ENTER, SM_HOOK_LIMITED);
    m.limits_[8] = {0, u64{1} << 32, 3, {}};
    for (int i = 0; i < 10; i++)
        EXPECT_EQ(hit(limited_rip), limited_rip + 0x1000000);
    EXPECT_EQ(m.ring().recorded[SM_EVENT_SYSCALL_ENTER], 3u) << "though some took both tries";
    EXPECT_EQ(m.ring().seq, 3u) << "a limited event has no number";
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 8), 3u);
    EXPECT_EQ(m.counter(SM_COUNTER_LIMITED, 8), 7u);
    m.limits_[8].events = 5;
    for (int i = 0; i < 10; i++)
        hit(limited_rip, regs_at, 0, interrupts_off);
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 8), 5u);
    /* Of the guest only the frame is read for an event that is above the limit. */
    m.ring().tail = m.ring().head;
    m.loads_ = 0;
    EXPECT_EQ(hit(limited_rip, 0, 0, interrupts_off), limited_rip + 0x2000000);
    EXPECT_EQ(m.loads_, 2u);
    hit(enter_rip);
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 1), 1u) << "others have no limit";
}

TEST_F(HandlerTest, HoldingHookAsksTheHostAndRecordsNothing) {
    constexpr u64 hold_rip = 0xffffffff9a100912;
    m.add_hook(hold_rip, 12, SM_EVENT_HOOK, SM_HOOK_HOLD);
    std::vector<u64> calls;
    for (u64 answer : {u64{0}, u64{1}}) {
        m.on_call_ = [&](u64 number) {
            calls.push_back(number);
            return answer;
        };
        EXPECT_EQ(hit(hold_rip), hold_rip + 0x1000000) << "whatever the answer is";
    }
    EXPECT_EQ(calls, (std::vector<u64>{SM_CALL_HOLD, SM_CALL_HOLD}));
    EXPECT_EQ(m.ring().head, 0u);
    EXPECT_EQ(m.ring().seq, 0u);
    for (sm_counter kind : {SM_COUNTER_RECORDED, SM_COUNTER_LOST, SM_COUNTER_LIMITED})
        EXPECT_EQ(m.counter(kind, 12), 0u);
}

TEST_F(HandlerTest, LimitAndWhatTheFastWayCannotDo) {
    constexpr u64 compat_limited_rip = 0xffffffff9a100812;
    m.add_hook(compat_limited_rip, 9, SM_EVENT_SYSCALL_ENTER, SM_HOOK_LIMITED | SM_HOOK_COMPAT);
    m.limits_[9] = {0, u64{1} << 32, 2, {}};
    for (int i = 0; i < 4; i++)
        hit(compat_limited_rip);
    EXPECT_EQ(m.counter(SM_COUNTER_RECORDED, 9), 2u);
    EXPECT_EQ(m.counter(SM_COUNTER_LIMITED, 9), 2u);
    sm_event_header h;
    memcpy(&h, m.data(), sizeof(h));
    EXPECT_EQ(h.flags, SM_EVENT_COMPAT);
}

TEST_F(HandlerTest, GuestThatChangesItsMemoryMeanwhile) {
    /* After the frame has been read once the guest rewrites it: nothing of that is seen. */
    m.on_load_ = [this](u64 at) {
        if (at == frame_at || at == frame_at + 16)
            m.write(at, u64{0x1234});
    };
    hit(enter_rip); /* finds the ring new, so takes both ways */
    EXPECT_EQ(hit(enter_rip, regs_at, 0, interrupts_off), enter_rip + 0x2000000);
    EXPECT_EQ(m.ring().recorded[SM_EVENT_SYSCALL_ENTER], 1u);
    EXPECT_EQ(m.ring().recorded[SM_EVENT_UNKNOWN_HOOK], 1u) << "the second way looked anew";
}

/* What the fast way records is what the complete way records. */
RC_GTEST_PROP(HandlerPaths, AreTheSame, (u64 seed)) {
    std::mt19937_64 random(seed);
    const u64 pointers[] = {
        task, next_task, parent, regs_at, FakeMachine::kernel_image + 0x1000, random(), 0};
    FakeMachine m;
    m.make_task(task, random() & 0xffff, random() & 0xffff, parent, 33, "cat");
    m.make_task(next_task, 2002, 2000, parent, 0, "sixteen-letters!");
    m.make_task(parent, 900, 899, pointers[random() % 7], 0, "sh");
    m.set_current(pointers[random() % 4]);
    for (u64 i = 0; i < sizeof(PtRegs) / 8; i++)
        m.write(regs_at + 8 * i, random());
    m.add_hook(enter_rip, 1, SM_EVENT_SYSCALL_ENTER);
    m.add_hook(exit_rip, 2, SM_EVENT_SYSCALL_EXIT);
    m.add_hook(switch_rip, 3, SM_EVENT_SWITCH);
    const u64 rips[] = {enter_rip, exit_rip, switch_rip};
    const u64 rdi = random() % 2 ? regs_at : pointers[random() % 7];
    const u64 rsi = pointers[random() % 7];
    m.enter(frame_at, rips[random() % 3], random(), rdi, rsi);
    m.slot().tsc = tsc;
    const Stamp stamp(tsc, 5);
    /* Let the fast way have room. */
    RingWriter<FakeMachine>(m, m.slot()).reserve(SM_EVENT_SWITCH, 120, stamp);
    u64 fast = 0, complete = 0;
    const sm_hook* hook = nullptr;
    const Outcome outcome =
        Handler<FakeMachine, DirectMemory, IntEntry>(m, m.slot(), stamp, IntEntry())
            .run(&fast, &hook);
    std::vector<u8> record(m.data(), m.data() + m.ring().head);
    m.ring() = {};
    memset(m.data(), 0xee, m.config_.ring_size);
    RC_ASSERT((Handler<FakeMachine, AnyMemory, IntEntry>(m, m.slot(), stamp, IntEntry())
                   .run(&complete, &hook)) == Outcome::done);
    if (outcome == Outcome::done) {
        RC_ASSERT(fast == complete);
        RC_ASSERT(m.ring().head == record.size());
        RC_ASSERT(memcmp(record.data(), m.data(), record.size()) == 0);
    } else {
        RC_ASSERT(record.empty());
    }
    RC_ASSERT(!testing::Test::HasFailure());
}

} // namespace
} // namespace shadowmon::payload::test
