// SPDX-License-Identifier: GPL-2.0-or-later
// Hooks that the guest has ended, in every format.
#include "src/events/decoder.h"
#include "src/output/json_output.h"
#include "src/output/text_output.h"
#include "tests/unit/output/test_events.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace shadowmon {
namespace {

using nlohmann::json;
using namespace test;

Event retired_event(std::string_view name, std::string_view why) {
    Event event;
    event.tsc = 4711;
    event.realtime_ns = kTime;
    event.body = HookRetired{name, why};
    return event;
}

TEST(RetiredOutput, Json) {
    json event = json::parse(
        written<JsonOutput>(retired_event("brd:brd_submit_bio", "module b\x1brd was unloaded")));
    EXPECT_EQ(event, (json{{"time", "2026-11-23T09:55:01.123456789Z"},
                           {"tsc", "4711"},
                           {"kind", "hook_retired"},
                           {"hook", "brd:brd_submit_bio"},
                           {"reason", "module b\\x1brd was unloaded"}}))
        << "it is of no task, CPU or ring";
}

TEST(RetiredOutput, Text) {
    std::string text =
        written<TextOutput>(retired_event("brd:brd_submit_bio", "module brd was unloaded"));
    EXPECT_TRUE(text.ends_with("retired brd:brd_submit_bio (module brd was unloaded)\n")) << text;
}

TEST(RetiredOutput, LongReasonsAreCut) {
    const std::string name(Decoder::max_hook_name, '\x1b'), why(100'000, '\x1b');
    EXPECT_LT(written<TextOutput>(retired_event(name, why)).size(), Sink::max_record);
    std::string line = written<JsonOutput>(retired_event(name, why));
    EXPECT_LT(line.size(), Sink::max_record);
    EXPECT_EQ(json::parse(line)["kind"], "hook_retired");
}

TEST(RetiredOutput, SummaryCountsThemApart) {
    SummaryCollector collector;
    collector.event(retired_event("brd:brd_submit_bio", "module brd was unloaded"));
    Summary summary = collector.summary(LostCounter());
    EXPECT_EQ(summary.events, 0u);
    EXPECT_EQ(summary.process_count, 0u) << "no process did that";
    EXPECT_EQ(summary.by_type[SM_EVENT_HOOK_RETIRED], 1u);
}

} // namespace
} // namespace shadowmon
