/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A fake machine with processes and hooks, for tests of one entry into the gate. */
#pragma once

#include "payload/handler.h"

#include "tests/unit/payload/fake_machine.h"

#include <gtest/gtest.h>

namespace shadowmon::payload::test {

inline constexpr u64 task = FakeMachine::direct_map + 0x100000;
inline constexpr u64 next_task = FakeMachine::direct_map + 0x110000;
inline constexpr u64 parent = FakeMachine::direct_map + 0x120000;
inline constexpr u64 regs_at = FakeMachine::stack + stack_block_size - sizeof(PtRegs);
inline constexpr u64 frame_at = FakeMachine::stack + 0x3d00;
inline constexpr u64 enter_rip = 0xffffffff9a100012, exit_rip = 0xffffffff9a100112,
                     switch_rip = 0xffffffff9a100212, compat_rip = 0xffffffff9a100312,
                     compat_exit_rip = 0xffffffff9a100412, int80_rip = 0xffffffff9a100512,
                     own_rip = 0xffffffff9a100612;
inline constexpr u64 tsc = 0x123456789abcdef0;
inline constexpr u32 aux = 0x1005; /* node 1, CPU 5 */
inline constexpr u64 interrupts_on = 0x246, interrupts_off = 0x46;

class HandlerTest : public testing::Test {
  protected:
    HandlerTest() {
        m.make_task(task, 1001, 1000, parent, 33, "cat");
        m.make_task(next_task, 2002, 2000, parent, 0, "sixteen-letters!");
        m.make_task(parent, 900, 899, parent, 0, "sh");
        m.set_current(task);
        m.add_hook(enter_rip, 1, SM_EVENT_SYSCALL_ENTER);
        m.add_hook(exit_rip, 2, SM_EVENT_SYSCALL_EXIT);
        m.add_hook(switch_rip, 3, SM_EVENT_SWITCH);
        m.add_hook(compat_rip, 4, SM_EVENT_SYSCALL_ENTER, SM_HOOK_COMPAT);
        m.add_hook(compat_exit_rip, 5, SM_EVENT_SYSCALL_EXIT, SM_HOOK_COMPAT);
        m.add_hook(int80_rip, 6, SM_EVENT_SYSCALL_ENTER, SM_HOOK_COMPAT | SM_HOOK_NR_IN_AX);
        m.add_hook(own_rip, 7, SM_EVENT_HOOK);
        write_regs(regs_at);
    }

    void write_regs(u64 at) {
        for (u64 i = 0; i < sizeof(PtRegs) / 8; i++)
            m.write(at + 8 * i, 0xaaaa000000000000 + i);
        m.write(at + offsetof(PtRegs, orig_ax), u64{1});
    }

    u64 hit(u64 rip, u64 rdi = regs_at, u64 rsi = 0, u64 rflags = interrupts_on) {
        m.enter(frame_at, rip, rflags, rdi, rsi);
        return handle<IntEntry>();
    }
    void call(u64 rip, u64 rdi = regs_at, u64 rsi = 0, u64 rflags = interrupts_on) {
        m.enter_call(frame_at, rip, rflags, rdi, rsi);
        handle<CallEntry>();
    }
    template <class Entry> u64 handle(u32 slot = 0) {
        m.slot(slot).tsc = tsc;
        m.aux_ = aux;
        return handle_event<Entry>(m, m.slot(slot), tsc, aux);
    }

    template <class Event> Event first() {
        Event event;
        EXPECT_EQ(m.ring().head, sizeof(event));
        memcpy(&event, m.data(), sizeof(event));
        return event;
    }

    /* Everything of the header that does not depend on the kind of event. */
    void expect_header(const sm_event_header& h, u16 type, u16 flags, u32 size, u32 hook) {
        EXPECT_EQ(h.type, type);
        EXPECT_EQ(h.flags, flags);
        EXPECT_EQ(h.size, size);
        EXPECT_EQ(h.hook, hook);
        EXPECT_EQ(h.cpu, aux);
        EXPECT_EQ(h.seq, 0u);
        EXPECT_EQ(h.tsc, tsc);
        EXPECT_EQ(h.cr3, m.cr3());
    }
    void expect_cat(const sm_event_header& h) {
        EXPECT_EQ(h.task, task);
        EXPECT_EQ(h.tid, 1001u);
        EXPECT_EQ(h.pid, 1000u);
        EXPECT_EQ(h.ppid, 899u);
        EXPECT_EQ(h.uid, 33u);
        EXPECT_EQ(memcmp(h.comm, "cat\0\0\0\0\0\0\0\0\0\0\0\0\0", 16), 0);
    }
    void expect_no_task(const sm_event_header& h, u64 at) {
        EXPECT_EQ(h.flags & SM_EVENT_NO_TASK, SM_EVENT_NO_TASK);
        EXPECT_EQ(h.task, at);
        EXPECT_EQ(h.tid + h.pid + h.ppid + h.uid, 0u);
        for (char c : h.comm)
            EXPECT_EQ(c, 0);
    }

    FakeMachine m;
};

} // namespace shadowmon::payload::test
