// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/event.h>

#include "src/events/ring_reader.h"

#include <gtest/gtest.h>

#include <set>

namespace shadowmon {
namespace {

TEST(Event, EveryTypeHasItsOwnName) {
    std::set<std::string_view> names;
    for (unsigned type = 0; type < SM_EVENT_TYPES; ++type) {
        EXPECT_FALSE(event_type_name(type).empty()) << type;
        EXPECT_TRUE(names.insert(event_type_name(type)).second) << type;
        // A type that gets a record needs a name of its own, too. The host's own has none.
        bool unused = record_size(type) == 0 && type != SM_EVENT_PAD;
        EXPECT_EQ(event_type_name(type).starts_with("type_"),
                  unused && type != SM_EVENT_HOOK_RETIRED)
            << type;
    }
    EXPECT_EQ(event_type_name(SM_EVENT_TYPES), "type_unknown");
}

TEST(Event, TypeFollowsTheBody) {
    Event event;
    event.body = SyscallEnter{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_SYSCALL_ENTER));
    event.body = SyscallExit{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_SYSCALL_EXIT));
    event.body = Switch{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_SWITCH));
    event.body = HookRetired{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_HOOK_RETIRED));
    event.body = Lost{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_LOST));
    event.body = HookHit{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_HOOK));
    event.body = UnknownHook{};
    EXPECT_EQ(event_type(event), static_cast<unsigned>(SM_EVENT_UNKNOWN_HOOK));
}

TEST(Event, CommEndsAtItsNulOrAtSixteenBytes) {
    Comm comm;
    EXPECT_EQ(comm.view(), "");
    comm.bytes = {'s', 'h', '\0', 'x'};
    EXPECT_EQ(comm.view(), "sh");
    comm.bytes.fill('a');
    EXPECT_EQ(comm.view(), "aaaaaaaaaaaaaaaa");
}

TEST(Event, TaskStateLettersAreThoseOfPs) {
    EXPECT_EQ(task_state_letter(0), 'R');
    EXPECT_EQ(task_state_letter(1), 'S');
    EXPECT_EQ(task_state_letter(2), 'D');
    EXPECT_EQ(task_state_letter(0x102), 'D'); // killable
    EXPECT_EQ(task_state_letter(4), 'T');
    EXPECT_EQ(task_state_letter(8), 't');
    EXPECT_EQ(task_state_letter(0x10), 'X');
    EXPECT_EQ(task_state_letter(0x20), 'Z');
    EXPECT_EQ(task_state_letter(0x40), 'P');
    EXPECT_EQ(task_state_letter(0x402), 'I');
    EXPECT_EQ(task_state_letter(0x80), 'R'); // nothing that ps would show
    EXPECT_NE(task_state_letter(~uint64_t{0}), '\0');
}

} // namespace
} // namespace shadowmon
