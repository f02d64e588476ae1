// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/decoder.h"

#include <gtest/gtest.h>

#include <cstring>

namespace shadowmon {
namespace {

Record record(sm_event_type type, uint64_t task = 0xffff888000001000, uint16_t flags = 0) {
    Record r{};
    r.header.type = type;
    r.header.flags = flags;
    r.header.size = static_cast<uint32_t>(record_size(type));
    r.header.task = task;
    return r;
}

template <typename Body> Body decode(Decoder& decoder, const Record& r) {
    Event event;
    decoder.decode(r, event);
    const Body* body = event.get_if<Body>();
    EXPECT_NE(body, nullptr);
    return body ? *body : Body{};
}

Record enter(uint64_t nr, uint64_t task, uint16_t flags = 0) {
    Record r = record(SM_EVENT_SYSCALL_ENTER, task, flags);
    r.syscall_enter.nr = nr;
    return r;
}

Record leave(uint64_t nr, uint64_t task, int64_t ret = 0) {
    Record r = record(SM_EVENT_SYSCALL_EXIT, task);
    r.syscall_exit = {nr, ret};
    return r;
}

TEST(Decoder, TakesOverTheHeader) {
    Record r =
        record(SM_EVENT_SYSCALL_EXIT, 0xffff888000001000, SM_EVENT_NO_TASK | SM_EVENT_NO_BODY);
    r.header.hook = 3;
    r.header.cpu = 1;
    r.header.seq = 77;
    r.header.tsc = 2000;
    r.header.tid = 11;
    r.header.pid = 10;
    r.header.ppid = 9;
    r.header.uid = 1000;
    r.header.cr3 = 0x1234000;
    std::memcpy(r.header.comm, "0123456789abcdef", SM_COMM_SIZE);

    Decoder decoder(*ClockMap::make({1000, 500'000, 1'000'000}));
    Event event;
    decoder.decode(r, event);
    EXPECT_EQ(event.tsc, 2000u);
    EXPECT_EQ(event.realtime_ns, 501'000u);
    EXPECT_EQ(event.seq, 77u);
    EXPECT_EQ(event.cr3, 0x1234000u);
    EXPECT_EQ(event.cpu, 1u);
    EXPECT_EQ(event.hook, 3u);
    EXPECT_TRUE(event.no_task);
    EXPECT_TRUE(event.no_body);
    EXPECT_EQ(event.process.task, Gva(0xffff888000001000));
    EXPECT_EQ(event.process.tid, 11u);
    EXPECT_EQ(event.process.pid, 10u);
    EXPECT_EQ(event.process.ppid, 9u);
    EXPECT_EQ(event.process.uid, 1000u);
    EXPECT_EQ(event.process.comm.view(), "0123456789abcdef");
}

TEST(Decoder, NamesSystemCallsAndErrors) {
    Decoder decoder;
    Record r = enter(0, 1);
    for (uint64_t i = 0; i < 6; ++i)
        r.syscall_enter.args[i] = 10 + i;
    const auto entered = decode<SyscallEnter>(decoder, r);
    EXPECT_EQ(entered.call.name, "read");
    EXPECT_EQ(entered.args, (std::array<uint64_t, 6>{10, 11, 12, 13, 14, 15}));

    const auto left = decode<SyscallExit>(decoder, leave(0, 1, -4));
    EXPECT_EQ(left.call.name, "read");
    EXPECT_EQ(left.ret, -4);
    EXPECT_EQ(left.error, "EINTR");
}

// The kernel looks at the low half only, so a program cannot hide a call in the high one.
TEST(Decoder, TakesTheNumberAsTheKernelDoes) {
    Decoder decoder;
    EXPECT_EQ(decode<SyscallEnter>(decoder, enter(0xdead'0000'0000'003b, 1)).call.name, "execve");
    const Syscall call = decode<SyscallEnter>(decoder, enter(0xffff'ffff, 1)).call;
    EXPECT_EQ(call.nr, -1);
    EXPECT_EQ(call.name, "");
}

TEST(Decoder, RemembersWhoIsInA32BitCall) {
    Decoder decoder;
    const auto in = decode<SyscallEnter>(decoder, enter(3, 1, SM_EVENT_COMPAT));
    EXPECT_TRUE(in.call.compat);
    EXPECT_EQ(in.call.name, "read");

    EXPECT_EQ(decode<SyscallExit>(decoder, leave(3, 2)).call.name, "close") << "another task";
    const auto out = decode<SyscallExit>(decoder, leave(3, 1));
    EXPECT_TRUE(out.call.compat);
    EXPECT_EQ(out.call.name, "read");
    EXPECT_EQ(decode<SyscallExit>(decoder, leave(3, 1)).call.name, "close") << "left already";
}

TEST(Decoder, ForgetsA32BitCallWhoseExitWasLost) {
    Decoder decoder;
    decode<SyscallEnter>(decoder, enter(3, 1, SM_EVENT_COMPAT));
    decode<SyscallEnter>(decoder, enter(3, 1));
    EXPECT_FALSE(decode<SyscallExit>(decoder, leave(3, 1)).call.compat);
}

TEST(Decoder, DecodesASwitch) {
    Record r = record(SM_EVENT_SWITCH);
    r.context_switch.next_task = 0xffff888000002000;
    r.context_switch.next_tid = 5;
    r.context_switch.next_pid = 4;
    r.context_switch.prev_state = 1;
    std::memcpy(r.context_switch.next_comm, "sshd", 5);
    Decoder decoder;
    const auto body = decode<Switch>(decoder, r);
    EXPECT_EQ(body.next_task, Gva(0xffff888000002000));
    EXPECT_EQ(body.next_tid, 5u);
    EXPECT_EQ(body.next_pid, 4u);
    EXPECT_EQ(body.prev_state, 1u);
    EXPECT_EQ(body.next_comm.view(), "sshd");
}

TEST(Decoder, NamesHooks) {
    Decoder decoder;
    decoder.set_hook_name(2, std::string(1000, 'x'));
    decoder.set_hook_name(1, "do_exit+0x2a");
    Record r = record(SM_EVENT_HOOK);
    r.header.hook = 1;
    r.hook = {{1, 2, 3, 4, 5, 6}, 7, 8, 9};
    auto hit = decode<HookHit>(decoder, r);
    EXPECT_EQ(hit.name, "do_exit+0x2a");
    EXPECT_EQ(hit.args, (std::array<uint64_t, 6>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(hit.ax, 7u);
    EXPECT_EQ(hit.sp, 8u);
    EXPECT_EQ(hit.flags, 9u);
    r.header.hook = 2;
    EXPECT_EQ(decode<HookHit>(decoder, r).name.size(), Decoder::max_hook_name);
    r.header.hook = 3;
    EXPECT_EQ(decode<HookHit>(decoder, r).name, "?") << "an id that no hook has";
    r.header.hook = 0;
    EXPECT_EQ(decode<HookHit>(decoder, r).name, "?") << "an id that no hook has yet";

    // The id goes to another hook; what was decoded before keeps its name.
    for (uint32_t id = 0; id < 1000; id++)
        decoder.set_hook_name(id, "hook" + std::to_string(id));
    EXPECT_EQ(hit.name, "do_exit+0x2a");
    r.header.hook = 1;
    EXPECT_EQ(decode<HookHit>(decoder, r).name, "hook1");
}

TEST(Decoder, DecodesLossesAndUnknownHooks) {
    Decoder decoder;
    Record r = record(SM_EVENT_LOST);
    r.lost.lost[SM_EVENT_SWITCH] = 4;
    r.lost.lost[SM_EVENT_SYSCALL_EXIT] = 3;
    const auto lost = decode<Lost>(decoder, r);
    EXPECT_EQ(lost.by_type[SM_EVENT_SWITCH], 4u);
    EXPECT_EQ(lost.total(), 7u);

    r = record(SM_EVENT_UNKNOWN_HOOK);
    r.unknown = {0xffffffff81000002, 0xffffc90000003f00};
    const auto unknown = decode<UnknownHook>(decoder, r);
    EXPECT_EQ(unknown.rip, Gva(0xffffffff81000002));
    EXPECT_EQ(unknown.rsp, Gva(0xffffc90000003f00));
}

} // namespace
} // namespace shadowmon
