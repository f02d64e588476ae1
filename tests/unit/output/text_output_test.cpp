// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/text_output.h"

#include "tests/unit/output/test_events.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

namespace shadowmon {
namespace {

using namespace test;

/// The lines that these events make, without the one that names the day.
std::vector<std::string> lines(const std::vector<Event>& events, bool with_day = false) {
    TestFile file;
    TextOutput output(Sink(file.fd(), "file"));
    for (const Event& event : events)
        output.event(event);
    EXPECT_TRUE(output.flush());
    std::istringstream text(file.read());
    std::vector<std::string> result;
    for (std::string line; std::getline(text, line);) {
        if (with_day || line[0] != '#')
            result.push_back(line);
    }
    return result;
}

std::string line(const Event& event) { return lines({event}).at(0); }

TEST(TextOutput, WritesEveryKind) {
    const std::string start = "09:55:01.123456789 001 bash/413               ";
    EXPECT_EQ(line(enter_event()),
              start + "enter   read(3, 0x7ffd5a3c2e10, 4096, 0, 1048575, 0xffffffffffffffff)");
    EXPECT_EQ(line(exit_event(4096)), start + "exit    openat = 4096");
    EXPECT_EQ(line(exit_event(-2)), start + "exit    openat = -2 (ENOENT)");
    EXPECT_EQ(line(exit_event(0x7f0000000000)), start + "exit    openat = 0x7f0000000000");
    EXPECT_EQ(line(exit_event(-5000)), start + "exit    openat = -5000");
    EXPECT_EQ(line(switch_event()), start + "switch  S -> sshd/200");
    EXPECT_EQ(line(lost_event()), start + "lost    12 events (syscall_enter 8, switch 4)");
    EXPECT_EQ(line(unknown_event()),
              start + "unknown rip=0xffffffff81000002 rsp=0xffffc90000003f00");
    Event hit = base_event();
    hit.body = HookHit{"a b", {1, 2, 3, 4, 5, 0xffff888000001000}, 7, 8, 0x246};
    EXPECT_EQ(line(hit), start + "hook    a\\x20b(1, 2, 3, 4, 5, 0xffff888000001000) ax=7");
}

TEST(TextOutput, NamesTheDayWhenItChanges) {
    Event first = exit_event(0);
    Event second = first;
    Event third = first;
    third.realtime_ns += 86'400'000'000'000;
    const std::vector<std::string> text = lines({first, second, third}, true);
    ASSERT_EQ(text.size(), 5u);
    EXPECT_EQ(text[0], "# 2026-11-23 UTC");
    EXPECT_EQ(text[3], "# 2026-11-24 UTC");
}

TEST(TextOutput, MarksWhatIsOddAboutAnEvent) {
    Event event = exit_event(0);
    event.late = true;
    EXPECT_TRUE(line(event).ends_with("openat = 0 [late]")) << line(event);
    event.no_task = true;
    event.no_body = true;
    event.process = {};
    EXPECT_TRUE(line(event).ends_with("openat = 0 [late] [no task] [no body]"));
    EXPECT_NE(line(event).find(" -/0 "), std::string::npos);
}

TEST(TextOutput, ShowsCompatAndUnknownCalls) {
    Event event = base_event();
    event.body = SyscallEnter{call(11, true), {}};
    EXPECT_TRUE(line(event).ends_with("execve@32(0, 0, 0, 0, 0, 0)")) << line(event);
    event.body = SyscallEnter{call(-1), {}};
    EXPECT_TRUE(line(event).ends_with("syscall_-1(0, 0, 0, 0, 0, 0)")) << line(event);
}

TEST(TextOutput, KeepsColumnsApartIfTheyAreTooLong) {
    Event event = exit_event(0);
    event.cpu = 4095;
    event.process.comm = to_comm("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    event.process.tid = UINT32_MAX;
    std::istringstream words(line(event));
    std::string time, cpu, task, kind, name;
    words >> time >> cpu >> task >> kind >> name;
    EXPECT_EQ(cpu, "4095");
    EXPECT_TRUE(task.ends_with("\\xff/4294967295"));
    EXPECT_EQ(kind, "exit");
    EXPECT_EQ(name, "openat");
}

RC_GTEST_PROP(TextOutputProperty, NoCommCanForgeColumnsOrLines, ()) {
    Event event = switch_event();
    event.process.comm.bytes =
        *rc::gen::container<std::array<char, sizeof(Comm)>>(rc::gen::arbitrary<char>());
    std::get<Switch>(event.body).next_comm.bytes =
        *rc::gen::container<std::array<char, sizeof(Comm)>>(rc::gen::arbitrary<char>());
    const std::vector<std::string> text = lines({event});
    RC_ASSERT(text.size() == 1u);
    std::istringstream words(text[0]);
    std::vector<std::string> columns;
    for (std::string word; words >> word;)
        columns.push_back(word);
    RC_ASSERT(columns.size() == 7u);
    RC_ASSERT(columns[3] == "switch");
    RC_ASSERT(columns[5] == "->");
    for (const char c : text[0])
        RC_ASSERT(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
}

TEST(TextOutput, WritesTheSummaryAsComments) {
    TestFile file;
    TextOutput output(Sink(file.fd(), "file"));
    Summary summary;
    summary.events = 3;
    summary.processes.push_back({412, to_comm("ba sh"), 3, 2, 1});
    EXPECT_TRUE(output.finish(summary));
    std::istringstream text(file.read());
    size_t count = 0;
    for (std::string line; std::getline(text, line); ++count)
        EXPECT_EQ(line[0], '#') << line;
    EXPECT_GT(count, 3u);
}

} // namespace
} // namespace shadowmon
