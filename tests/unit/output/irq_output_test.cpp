// SPDX-License-Identifier: GPL-2.0-or-later
// Interrupts in every format.
#include "src/output/json_output.h"
#include "src/output/text_output.h"
#include "tests/unit/output/test_events.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace shadowmon {
namespace {

using nlohmann::json;
using namespace test;

Event event_of(Event::Body body) {
    Event event = base_event();
    event.body = std::move(body);
    return event;
}

TEST(IrqOutput, Json) {
    json enter = json::parse(written<JsonOutput>(event_of(IrqEnter{38, 4, "ser\"ial\x1b"})));
    EXPECT_EQ(enter["kind"], "irq_enter");
    EXPECT_EQ(enter["irq"], (json{{"handler", "ser\"ial\\x1b"}, {"vector", 38}, {"line", 4}}));
    EXPECT_EQ(enter["comm"], "bash");
    EXPECT_FALSE(enter.contains("duration_ns"));
    json exit = json::parse(written<JsonOutput>(event_of(IrqExit{236, {}, "timer", 9011})));
    EXPECT_EQ(exit["kind"], "irq_exit");
    EXPECT_EQ(exit["irq"], (json{{"handler", "timer"}, {"vector", 236}}));
    EXPECT_EQ(exit["duration_ns"], 9011);
    EXPECT_FALSE(exit.contains("unpaired"));
    json unpaired = json::parse(written<JsonOutput>(event_of(IrqExit{{}, {}, "timer", {}})));
    EXPECT_EQ(unpaired["irq"], (json{{"handler", "timer"}}));
    EXPECT_EQ(unpaired["unpaired"], true);
    EXPECT_FALSE(unpaired.contains("duration_ns"));
}

TEST(IrqOutput, Text) {
    auto ends = [](const Event& event, const std::string& end) {
        std::string text = written<TextOutput>(event);
        EXPECT_TRUE(text.ends_with(end + "\n")) << text;
    };
    ends(event_of(IrqEnter{38, 4, "serial"}), "irq     serial vector 38 line 4");
    ends(event_of(IrqExit{236, {}, "timer", 9011}), "irq end timer vector 236 = 9011 ns");
    ends(event_of(IrqExit{{}, {}, "timer", {}}), "irq end timer [unpaired]");
}

TEST(IrqOutput, Summary) {
    SummaryCollector collector;
    collector.event(event_of(IrqEnter{236, {}, "timer"}));
    collector.event(event_of(IrqExit{236, {}, "timer", 100}));
    collector.event(event_of(IrqEnter{236, {}, "timer"}));
    collector.event(event_of(IrqExit{236, {}, "timer", 50}));
    collector.event(event_of(IrqExit{236, {}, "timer", {}}));
    collector.event(event_of(IrqEnter{38, 4, "serial"}));
    Summary summary = collector.summary(LostCounter(), 1);
    EXPECT_EQ(summary.events, 6u);
    json all = json::parse(to_json(summary));
    EXPECT_EQ(all["irqs"], (json::array({{{"handler", "timer"},
                                          {"entries", 2},
                                          {"timed", 2},
                                          {"unpaired", 1},
                                          {"total_ns", 150}}})));
    EXPECT_EQ(all["irq_count"], 2);
    EXPECT_EQ(all["by_kind"], (json{{"irq_enter", 3}, {"irq_exit", 3}}));
    std::string text = to_text(summary);
    EXPECT_NE(text.find("interrupts that took longest (1 of 2 handlers)"), std::string::npos);
    EXPECT_NE(text.find("0.150\n"), std::string::npos) << text;
}

} // namespace
} // namespace shadowmon
