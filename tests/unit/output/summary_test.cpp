// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/summary.h>

#include "abi/layout.h"
#include "src/events/ring_reader.h"
#include "src/output/json_output.h"
#include "src/output/text_output.h"
#include "tests/unit/output/test_events.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace shadowmon {
namespace {

using nlohmann::json;
using namespace test;

Event of(uint32_t pid, std::string_view comm, Event::Body body) {
    Event event = base_event();
    event.process.pid = pid;
    event.process.comm = to_comm(comm);
    event.body = std::move(body);
    return event;
}

SyscallEnter enter(int32_t nr, bool compat = false) { return {call(nr, compat), {}}; }
SyscallExit leave(int32_t nr, int64_t ret, bool compat = false) {
    return {call(nr, compat), ret, errno_name(ret)};
}

TEST(Summary, CountsByKindProcessAndCall) {
    SummaryCollector collector;
    for (int i = 0; i < 3; ++i) {
        collector.event(of(10, "cat", enter(0)));
        collector.event(of(10, "cat", leave(0, i == 0 ? -11 : 5)));
    }
    collector.event(of(10, "cat", Switch{}));
    collector.event(of(11, "sh", enter(59)));
    collector.event(of(11, "ls", leave(59, 0))); // exec changes the name
    collector.event(of(11, "ls", enter(3, true)));
    Event late = of(12, "x", enter(100'000));
    late.late = true;
    late.realtime_ns += 5;
    collector.event(late);
    collector.event(lost_event());

    const Summary s = collector.summary(LostCounter());
    EXPECT_EQ(s.events, 11u);
    EXPECT_EQ(s.by_type[SM_EVENT_SYSCALL_ENTER], 6u);
    EXPECT_EQ(s.by_type[SM_EVENT_SYSCALL_EXIT], 4u);
    EXPECT_EQ(s.by_type[SM_EVENT_SWITCH], 1u);
    EXPECT_EQ(s.by_type[SM_EVENT_LOST], 1u);
    EXPECT_EQ(s.late, 1u);
    EXPECT_EQ(s.first_ns, kTime);
    EXPECT_EQ(s.last_ns, kTime + 5);

    EXPECT_EQ(s.process_count, 4u);
    ASSERT_EQ(s.processes.size(), 4u);
    EXPECT_EQ(s.processes[0].pid, 10u);
    EXPECT_EQ(s.processes[0].comm, to_comm("cat"));
    EXPECT_EQ(s.processes[0].events, 7u);
    EXPECT_EQ(s.processes[0].syscalls, 3u);
    EXPECT_EQ(s.processes[0].switches, 1u);

    EXPECT_EQ(s.syscall_count, 4u);
    EXPECT_EQ(s.syscalls[0].name, "read");
    EXPECT_EQ(s.syscalls[0].calls, 3u);
    EXPECT_EQ(s.syscalls[0].returns, 3u);
    EXPECT_EQ(s.syscalls[0].errors, 1u);
    EXPECT_EQ(s.syscalls[1].name, "(others)"); // number -1 is the lowest of those with one call
    EXPECT_EQ(s.syscalls[2].name, "execve");
    EXPECT_FALSE(s.syscalls[2].compat);
    EXPECT_EQ(s.syscalls[3].name, "read");
    EXPECT_TRUE(s.syscalls[3].compat);
}

TEST(Summary, CountsHitsByName) {
    SummaryCollector collector;
    for (uint32_t hook : {4u, 9u, 9u, 2u, 9u, 4u, 9u}) {
        const char* name = hook == 9 ? "vfs_read" : "nf_hook";
        Event event = of(10, "cat", HookHit{name, {}, 0, 0, 0});
        event.hook = hook; // taken out and added again, it has another id
        collector.event(event);
    }
    collector.event(of(10, "cat", HookHit{"do_exit", {}, 0, 0, 0}));
    const Summary s = collector.summary(LostCounter(), 2);
    EXPECT_EQ(s.hook_count, 3u);
    ASSERT_EQ(s.hooks.size(), 2u);
    EXPECT_EQ(s.hooks[0].name, "vfs_read");
    EXPECT_EQ(s.hooks[0].hits, 4u);
    EXPECT_EQ(s.hooks[1].name, "nf_hook");
    EXPECT_EQ(s.hooks[1].hits, 3u);
    EXPECT_NE(to_text(s).find("hooks hit most (2 of 3)"), std::string::npos);
}

TEST(Summary, KeepsTheTopOnly) {
    SummaryCollector collector;
    for (uint32_t pid = 1; pid <= 50; ++pid) {
        for (uint32_t i = 0; i < pid; ++i)
            collector.event(of(pid, "p", enter(static_cast<int32_t>(pid))));
    }
    const Summary s = collector.summary(LostCounter(), 3);
    EXPECT_EQ(s.process_count, 50u);
    ASSERT_EQ(s.processes.size(), 3u);
    EXPECT_EQ(s.processes[0].pid, 50u);
    EXPECT_EQ(s.processes[2].pid, 48u);
    EXPECT_EQ(s.syscall_count, 50u);
    ASSERT_EQ(s.syscalls.size(), 3u);
    EXPECT_EQ(s.syscalls[0].nr, 50);
}

TEST(Summary, AGuestCannotMakeItGrowForEver) {
    SummaryCollector collector;
    for (uint32_t pid = 1; pid <= SummaryCollector::max_processes + 1000; ++pid)
        collector.event(of(pid, "bomb", enter(-static_cast<int32_t>(pid))));
    const Summary s = collector.summary(LostCounter(), 1);
    EXPECT_EQ(s.process_count, SummaryCollector::max_processes + 1);
    EXPECT_EQ(s.processes[0].comm, to_comm("(others)"));
    EXPECT_EQ(s.processes[0].events, 1000u);
    EXPECT_EQ(s.syscall_count, 1u);
    EXPECT_EQ(s.syscalls[0].calls, SummaryCollector::max_processes + 1000);
}

TEST(Summary, IsWholeInJson) {
    SummaryCollector collector;
    collector.event(of(10, "c\"\\\xff", enter(0)));
    collector.event(of(10, "c\"\\\xff", leave(3, -9, true)));
    collector.event(of(10, "c\"\\\xff", HookHit{"vfs_\"\x01", {}, 0, 0, 0}));
    sm_ring ring{};
    ring.lost[SM_EVENT_SWITCH] = 2;
    std::vector<std::byte> data(SM_PAGE_SIZE);
    const std::vector<RingReader> rings = {*RingReader::make(5, &ring, data)};
    Summary s = collector.summary(LostCounter(rings));
    s.figures = {{"vm_exits_per_event", "VM exits per event", 0.25},
                 {"nothing", "nothing", std::numeric_limits<double>::quiet_NaN()}};

    const json expected = {
        {"kind", "summary"},
        {"events", 3},
        {"by_kind", {{"syscall_enter", 1}, {"syscall_exit", 1}, {"hook", 1}}},
        {"first", "2026-11-23T09:55:01.123456789Z"},
        {"last", "2026-11-23T09:55:01.123456789Z"},
        {"late", 0},
        {"lost", 2},
        {"lost_by_kind", {{"switch", 2}}},
        {"lost_by_ring",
         {{{"ring", 5},
           {"dropped", {{"switch", 2}}},
           {"abandoned", json::object()},
           {"missing", 0}}}},
        {"broken_rings", 0},
        {"processes",
         {{{"pid", 10},
           {"comm", "c\"\\\\\\xff"},
           {"events", 3},
           {"syscalls", 1},
           {"switches", 0}}}},
        {"process_count", 1},
        {"syscalls",
         {{{"name", "read"}, {"nr", 0}, {"calls", 1}, {"returns", 0}, {"errors", 0}},
          {{"name", "read"},
           {"nr", 3},
           {"compat", true},
           {"calls", 0},
           {"returns", 1},
           {"errors", 1}}}},
        {"syscall_count", 2},
        {"hooks", {{{"name", "vfs_\"\\x01"}, {"hits", 1}}}},
        {"hook_count", 1},
        {"irqs", json::array()},
        {"irq_count", 0},
        {"figures", {{"vm_exits_per_event", 0.25}, {"nothing", nullptr}}},
    };
    EXPECT_EQ(json::parse(to_json(s)), expected);
}

TEST(Summary, OfNothingIsValidToo) {
    const json object = json::parse(to_json(Summary{}));
    EXPECT_EQ(object["first"], nullptr);
    EXPECT_EQ(object["processes"], json::array());
    EXPECT_EQ(object["figures"], json::object());
    EXPECT_NE(to_text(Summary{}).find("events lost"), std::string::npos);
}

TEST(Summary, TextHasTheMainFigures) {
    SummaryCollector collector;
    Event first = of(10, "ca t", enter(0));
    Event last = first;
    last.realtime_ns += 2'000'000'000;
    collector.event(first);
    collector.event(last);
    Summary s = collector.summary(LostCounter());
    s.figures = {{"vm_exits_per_event", "VM exits per event", 0.125}};
    const std::string text = to_text(s);
    for (const char* part : {"in 2.000 s, 1 per second", "syscall_enter", "events lost",
                             "VM exits per event             0.125", "ca\\x20t", "read"})
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

} // namespace
} // namespace shadowmon
