// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/json_output.h"

#include "src/events/decoder.h"
#include "tests/unit/output/test_events.h"
#include <shadowmonitor/escape.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace shadowmon {
namespace {

using nlohmann::json;
using namespace test;

std::string text_of(const Event& event) {
    TestFile file;
    JsonOutput output(Sink(file.fd(), "file"));
    output.event(event);
    EXPECT_TRUE(output.flush());
    return file.read();
}

/// Parsed strictly: one line, one object, no key twice.
json parse(const Event& event) {
    const std::string text = text_of(event);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
    EXPECT_TRUE(text.ends_with("}\n"));
    std::vector<std::set<std::string>> keys;
    return json::parse(text, [&](int depth, json::parse_event_t what, json& value) {
        keys.resize(static_cast<size_t>(depth) + 2);
        if (what == json::parse_event_t::object_start)
            keys[static_cast<size_t>(depth) + 1].clear();
        if (what == json::parse_event_t::key) {
            EXPECT_TRUE(keys[static_cast<size_t>(depth)].insert(value).second) << value;
        }
        return true;
    });
}

json header() {
    return {{"time", "2026-11-23T09:55:01.123456789Z"},
            {"tsc", "18446744073709551615"},
            {"cpu", 1},
            {"ring", 3},
            {"seq", 17},
            {"pid", 412},
            {"tid", 413},
            {"ppid", 1},
            {"uid", 1000},
            {"comm", "bash"},
            {"task", "0xffff8881002b8000"},
            {"cr3", "0x1000"}};
}

/// What an event must be: the common part, its kind, and what is given.
json with(const char* kind, json particular) {
    json expected = header();
    expected["kind"] = kind;
    expected.update(particular);
    return expected;
}

TEST(JsonOutput, WritesEntriesWithAllArguments) {
    EXPECT_EQ(
        parse(enter_event()),
        with("syscall_enter",
             {{"syscall",
               {{"name", "read"},
                {"nr", 0},
                {"args",
                 {"0x3", "0x7ffd5a3c2e10", "0x1000", "0x0", "0xfffff", "0xffffffffffffffff"}}}}}));
}

TEST(JsonOutput, WritesExitsWithAnErrorOnlyWhereThereIsOne) {
    const json call = {{"name", "openat"}, {"nr", 257}};
    EXPECT_EQ(parse(exit_event(3)), with("syscall_exit", {{"syscall", call}, {"ret", 3}}));
    EXPECT_EQ(parse(exit_event(-2)),
              with("syscall_exit", {{"syscall", call}, {"ret", -2}, {"error", "ENOENT"}}));
}

TEST(JsonOutput, WritesSwitches) {
    EXPECT_EQ(
        parse(switch_event()),
        with("switch",
             {{"prev",
               {{"pid", 412},
                {"tid", 413},
                {"comm", "bash"},
                {"task", "0xffff8881002b8000"},
                {"state", "S"},
                {"state_raw", "0x1"}}},
              {"next",
               {{"pid", 199}, {"tid", 200}, {"comm", "sshd"}, {"task", "0xffff888100aa0000"}}}}));
}

TEST(JsonOutput, WritesLossesAndUnknownHooks) {
    EXPECT_EQ(parse(lost_event()),
              with("lost", {{"lost", {{"syscall_enter", 8}, {"switch", 4}}}, {"total", 12}}));
    EXPECT_EQ(parse(unknown_event()),
              with("unknown_hook", {{"rip", "0xffffffff81000002"}, {"rsp", "0xffffc90000003f00"}}));
    Event none = base_event();
    none.body = Lost{};
    EXPECT_EQ(parse(none), with("lost", {{"lost", json::object()}, {"total", 0}}));
}

TEST(JsonOutput, WritesHooksWhateverTheirNames) {
    Event event = base_event();
    event.body = HookHit{"do_exit+0x2a", {1, 2, 3, 4, 5, 0xffff888000001000}, 7, 8, 0x246};
    EXPECT_EQ(parse(event),
              with("hook", {{"hook", "do_exit+0x2a"},
                            {"args", {"0x1", "0x2", "0x3", "0x4", "0x5", "0xffff888000001000"}},
                            {"ax", "0x7"},
                            {"sp", "0x8"},
                            {"flags", "0x246"}}));
    // A symbol of the guest's may be anything.
    const std::string name(Decoder::max_hook_name, '\x01');
    event.body = HookHit{name, {}, 0, 0, 0};
    EXPECT_EQ(unescape(parse(event)["hook"].get<std::string>()), name);
}

TEST(JsonOutput, HasMarksOnlyWhereTheyHold) {
    Event event = exit_event(0);
    event.late = event.no_task = event.no_body = true;
    const json object = parse(event);
    for (const char* mark : {"late", "no_task", "no_body"}) {
        EXPECT_EQ(object.at(mark), true);
        EXPECT_FALSE(parse(exit_event(0)).contains(mark));
    }
}

TEST(JsonOutput, ShowsCompatAndUnknownCalls) {
    Event event = base_event();
    event.body = SyscallExit{call(3, true), 0, {}};
    EXPECT_EQ(parse(event)["syscall"], (json{{"name", "read"}, {"nr", 3}, {"compat", true}}));
    event.body = SyscallExit{call(-1), 0, {}};
    EXPECT_EQ(parse(event)["syscall"], (json{{"name", "syscall_-1"}, {"nr", -1}}));
}

TEST(JsonOutput, WritesNumbersThatADoubleCannotKeepAsStrings) {
    constexpr int64_t limit = (int64_t{1} << 53) - 1;
    EXPECT_EQ(parse(exit_event(limit))["ret"], limit);
    EXPECT_EQ(parse(exit_event(-limit))["ret"], -limit);
    EXPECT_EQ(parse(exit_event(limit + 1))["ret"], "9007199254740992");
    EXPECT_EQ(parse(exit_event(-limit - 1))["ret"], "-9007199254740992");
    EXPECT_EQ(parse(exit_event(std::numeric_limits<int64_t>::min()))["ret"],
              "-9223372036854775808");
    Event event = exit_event(0);
    event.seq = UINT64_MAX;
    EXPECT_EQ(parse(event)["seq"], "18446744073709551615");
}

TEST(JsonOutput, EscapesAName) {
    Event event = exit_event(0);
    event.process.comm = to_comm("a\"b\\c\n\xff/ d");
    EXPECT_EQ(parse(event)["comm"], "a\"b\\\\c\\x0a\\xff/ d");
}

RC_GTEST_PROP(JsonOutputProperty, KeepsAnyEventWhole, ()) {
    const auto any_comm = [] {
        Comm comm;
        comm.bytes =
            *rc::gen::container<std::array<char, sizeof(Comm)>>(rc::gen::arbitrary<char>());
        return comm;
    };
    const auto any = [] { return *rc::gen::arbitrary<uint64_t>(); };
    Event event = base_event();
    event.realtime_ns = any() >> 1;
    event.cpu = static_cast<uint32_t>(any());
    event.process = {Gva(any()),
                     static_cast<uint32_t>(any()),
                     static_cast<uint32_t>(any()),
                     static_cast<uint32_t>(any()),
                     static_cast<uint32_t>(any()),
                     any_comm()};
    const Switch body{any(), Gva(any()), static_cast<uint32_t>(any()), static_cast<uint32_t>(any()),
                      any_comm()};
    event.body = body;

    const json object = parse(event);
    const auto back = [](const json& comm) { return unescape(comm.get<std::string>()); };
    const auto number = [](const json& hex) {
        return std::stoull(hex.get<std::string>(), nullptr, 16);
    };
    RC_ASSERT(back(object["comm"]) == event.process.comm.view());
    RC_ASSERT(back(object["prev"]["comm"]) == event.process.comm.view());
    RC_ASSERT(back(object["next"]["comm"]) == body.next_comm.view());
    RC_ASSERT(object["uid"] == event.process.uid);
    RC_ASSERT(number(object["task"]) == event.process.task.value);
    RC_ASSERT(number(object["next"]["task"]) == body.next_task.value);
    RC_ASSERT(number(object["prev"]["state_raw"]) == body.prev_state);
}

RC_GTEST_PROP(JsonOutputProperty, KeepsArgumentsAndResultsExact, ()) {
    SyscallEnter enter{call(*rc::gen::arbitrary<int32_t>()), {}};
    for (uint64_t& arg : enter.args)
        arg = *rc::gen::arbitrary<uint64_t>();
    Event event = base_event();
    event.body = enter;
    const json entry = parse(event);
    RC_ASSERT(entry["syscall"]["nr"] == enter.call.nr);
    for (size_t i = 0; i < enter.args.size(); ++i) {
        const auto text = entry["syscall"]["args"][i].get<std::string>();
        RC_ASSERT(std::stoull(text, nullptr, 16) == enter.args[i]);
    }

    const auto ret = *rc::gen::arbitrary<int64_t>();
    const json exit = parse(exit_event(ret));
    const json& value = exit["ret"];
    RC_ASSERT((value.is_string() ? std::stoll(value.get<std::string>()) : value.get<int64_t>()) ==
              ret);
}

TEST(JsonOutput, EndsWithTheSummary) {
    TestFile file;
    JsonOutput output(Sink(file.fd(), "file"));
    output.event(enter_event());
    EXPECT_TRUE(output.finish(Summary{}));
    const std::string text = file.read();
    const json last = json::parse(text.substr(text.find('\n') + 1));
    EXPECT_EQ(last["kind"], "summary");
}

} // namespace
} // namespace shadowmon
