// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/irq_pairing.h"

#include "src/events/decoder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace shadowmon {
namespace {

constexpr std::string_view timer = "timer", call = "call";

TEST(IrqPairing, NestedOnes) {
    IrqPairing irqs;
    irqs.enter(0, 0, {100, timer, timer, 236, 0});
    irqs.enter(0, 1, {110, call, call, 252, 0});
    irqs.enter(1, 0, {115, timer, timer, 236, 0}); // another CPU is no matter
    auto inner = irqs.exit(0, 2, 120, call);
    ASSERT_TRUE(inner);
    EXPECT_EQ(inner->tsc, 110u);
    auto outer = irqs.exit(0, 3, 130, timer);
    ASSERT_TRUE(outer);
    EXPECT_EQ(outer->tsc, 100u);
    EXPECT_EQ(outer->vector, 236u);
    EXPECT_EQ(irqs.open(), 1u);
}

TEST(IrqPairing, ExitOfWhatWasEnteredBeforeAttaching) {
    IrqPairing irqs;
    EXPECT_FALSE(irqs.exit(0, 0, 100, timer));
    irqs.enter(0, 1, {110, timer, timer, 236, 0});
    EXPECT_TRUE(irqs.exit(0, 2, 120, timer));
}

/// Exit of the first and entry of the second are lost: what is left looks like a pair.
TEST(IrqPairing, LostInBetween) {
    IrqPairing irqs;
    irqs.enter(0, 0, {100, timer, timer, 236, 0});
    EXPECT_FALSE(irqs.exit(0, 3, 200, timer));
    irqs.enter(0, 4, {210, timer, timer, 236, 0});
    EXPECT_TRUE(irqs.exit(0, 5, 220, timer));
}

TEST(IrqPairing, AnotherFunctionOrAnEarlierTime) {
    IrqPairing irqs;
    irqs.enter(0, 0, {100, timer, timer, 236, 0});
    EXPECT_FALSE(irqs.exit(0, 1, 110, call));
    irqs.enter(0, 2, {120, timer, timer, 236, 0});
    EXPECT_FALSE(irqs.exit(0, 3, 119, timer));
}

TEST(IrqPairing, HooksChangedInBetween) {
    IrqPairing irqs;
    irqs.enter(0, 0, {100, timer, timer, 236, 0});
    irqs.hooks_changed(150); // told late, but it counts by its time
    EXPECT_FALSE(irqs.exit(0, 1, 160, timer));
    irqs.enter(0, 2, {170, timer, timer, 236, 0});
    EXPECT_TRUE(irqs.exit(0, 3, 180, timer));
}

TEST(IrqPairing, DeepNestingIsBounded) {
    IrqPairing irqs;
    for (uint64_t n = 0; n < 10'000; n++)
        irqs.enter(0, n, {n, timer, timer, 236, 0});
    EXPECT_LE(irqs.open(), IrqPairing::max_depth);
}

/// Whatever is lost, an exit gets its own entry or none.
RC_GTEST_PROP(IrqPairing, NeverWrong, ()) {
    struct Made {
        bool enters;
        uint64_t tsc, pair;
    };
    std::vector<Made> made;
    std::vector<uint64_t> open;
    const auto choices = *rc::gen::container<std::vector<int>>(60, rc::gen::inRange(0, 2));
    for (int choice : choices) {
        const uint64_t tsc = 10 * (made.size() + 1);
        if (choice == 0 && open.size() < 3) {
            open.push_back(tsc);
            made.push_back({true, tsc, tsc});
        } else if (!open.empty()) {
            made.push_back({false, tsc, open.back()});
            open.pop_back();
        }
    }
    IrqPairing irqs;
    for (size_t i = 0; i < made.size(); i++) {
        if (*rc::gen::weightedElement<bool>({{1, true}, {5, false}}))
            continue; // lost
        if (made[i].enters)
            irqs.enter(0, i, {made[i].tsc, timer, timer, 236, 0});
        else if (auto entry = irqs.exit(0, i, made[i].tsc, timer))
            RC_ASSERT(entry->tsc == made[i].pair);
    }
}

Record record(uint16_t type, uint32_t hook, uint64_t tsc) {
    Record r{};
    r.header.type = type;
    r.header.size = static_cast<uint32_t>(record_size(type));
    r.header.hook = hook;
    r.header.tsc = tsc;
    return r;
}

TEST(DecoderIrq, NamesHandlersAndMeasures) {
    Decoder decoder(*ClockMap::make({0, 0, 2'000'000})); // 2 ticks per nanosecond
    decoder.set_irq_hook(1, "common_interrupt");
    decoder.set_irq_hook(2, "common_interrupt");
    decoder.set_irq_hook(3, "sysvec_x");
    decoder.set_symbolizer([](Gva at) { return at == Gva(0x1000) ? "serial" : ""; });
    Event event;
    Record enter = record(SM_EVENT_IRQ_ENTER, 1, 1000);
    enter.irq_enter = {38, 4, 0x1000, 0};
    decoder.decode(enter, event);
    ASSERT_TRUE(event.get_if<IrqEnter>());
    EXPECT_EQ(event.get_if<IrqEnter>()->handler, "serial");
    EXPECT_EQ(event.get_if<IrqEnter>()->vector, 38u);
    EXPECT_EQ(event.get_if<IrqEnter>()->irq, 4u);
    Record exit = record(SM_EVENT_IRQ_EXIT, 2, 1500);
    exit.irq_exit = {SM_IRQ_UNKNOWN, 0, 1};
    decoder.decode(exit, event);
    ASSERT_TRUE(event.get_if<IrqExit>());
    EXPECT_EQ(event.get_if<IrqExit>()->handler, "serial");
    EXPECT_EQ(event.get_if<IrqExit>()->vector, 38u);
    EXPECT_EQ(event.get_if<IrqExit>()->duration_ns, 250u);

    exit.irq_exit.nth = 7; // lost ones before
    decoder.decode(exit, event);
    EXPECT_EQ(event.get_if<IrqExit>()->handler, "common_interrupt");
    EXPECT_FALSE(event.get_if<IrqExit>()->vector);
    EXPECT_FALSE(event.get_if<IrqExit>()->duration_ns);

    enter = record(SM_EVENT_IRQ_ENTER, 3, 2000);
    enter.irq_enter = {236, SM_IRQ_UNKNOWN, 0, 8};
    decoder.decode(enter, event);
    EXPECT_EQ(event.get_if<IrqEnter>()->handler, "sysvec_x");
    EXPECT_FALSE(event.get_if<IrqEnter>()->irq);
}

TEST(DecoderIrq, HandlersAreNamedAsOfNow) {
    Decoder decoder;
    std::string name;
    decoder.set_symbolizer([&](Gva) { return name; });
    std::vector<std::string_view> told;
    for (const char* now : {"", "first [brd]", "other [loop]", "first [brd]"}) {
        name = now;
        Event event;
        Record enter = record(SM_EVENT_IRQ_ENTER, 1, 1000);
        enter.irq_enter = {38, 4, 0xffffffffc0000000, told.size()};
        decoder.decode(enter, event);
        told.push_back(event.get_if<IrqEnter>()->handler);
    }
    EXPECT_EQ(told, (std::vector<std::string_view>{"0xffffffffc0000000", "first [brd]",
                                                   "other [loop]", "first [brd]"}));
}

TEST(DecoderIrq, NamesOfHandlersAreBounded) {
    Decoder decoder;
    decoder.set_irq_hook(1, "common_interrupt");
    Event event;
    for (uint64_t i = 0; i <= Decoder::max_handlers; i++) {
        Record enter = record(SM_EVENT_IRQ_ENTER, 1, i);
        enter.irq_enter = {38, 4, 0xffffffffc0000000 + i, i};
        decoder.decode(enter, event);
        EXPECT_EQ(event.get_if<IrqEnter>()->handler,
                  i < Decoder::max_handlers ? fmt::format("{:#x}", 0xffffffffc0000000 + i) : "?");
    }
}

} // namespace
} // namespace shadowmon
