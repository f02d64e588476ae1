// SPDX-License-Identifier: GPL-2.0-or-later
// Where the interrupts of stock guests are hooked. SM_GUEST_IMAGE names the guest.
#include "src/session/irq_plan.h"

#include "src/guest/idt.h"
#include "src/hooks/movable.h"
#include "tests/unit/guest/stock_guest.h"

#include <algorithm>
#include <map>
#include <set>

namespace shadowmon::test {
namespace {

class IrqPlanTest : public StockGuest {
  protected:
    Result<IrqPlan> plan() { return plan_irq_hooks(*kernel_, *memory_, HookPolicy{}); }

    IdtEntry gate(unsigned vector) {
        IdtEntry entry;
        EXPECT_TRUE(memory_->read(kernel_->idt_gpa + vector * sizeof(entry),
                                  std::as_writable_bytes(std::span(&entry, 1))));
        return entry;
    }
    void set_gate(unsigned vector, IdtEntry entry) {
        memory_->write(kernel_->idt_gpa + vector * sizeof(entry),
                       std::as_bytes(std::span(&entry, 1)));
    }
};

TEST_F(IrqPlanTest, EveryGateIsWatched) {
    auto found = plan();
    ASSERT_TRUE(found) << found.error().message();
    // It stops the CPU: one of its two ways out is not even there.
    ASSERT_EQ(found->notes.size(), 1u);
    EXPECT_NE(found->notes[0].find("(sysvec_reboot) not watched"), std::string::npos)
        << found->notes[0];

    // By another way than the plan's: the names of the entry code, where they have one.
    std::set<std::string> expected{"common_interrupt", "spurious_interrupt"};
    std::map<std::string, unsigned> vectors;
    for (unsigned vector = 32; vector < 256; vector++) {
        auto entry = kernel_->symbols.find_by_address(gate(vector).handler());
        ASSERT_TRUE(entry);
        if (entry->name.starts_with("asm_sysvec_") && entry->name != "asm_sysvec_reboot") {
            expected.insert(std::string(entry->name.substr(4)));
            vectors[std::string(entry->name.substr(4))] = vector;
        }
    }
    EXPECT_GT(expected.size(), 10u);
    std::map<std::string, std::pair<unsigned, unsigned>> hooks;
    for (const HookRequest& request : found->requests) {
        bool enters = request.type == SM_EVENT_IRQ_ENTER;
        std::string name = request.name;
        if (!enters) {
            EXPECT_EQ(request.type, SM_EVENT_IRQ_EXIT);
            ASSERT_TRUE(name.ends_with(irq_exit_suffix));
            name.resize(name.size() - irq_exit_suffix.size());
        }
        ++(enters ? hooks[name].first : hooks[name].second);
        if (vectors.count(name))
            EXPECT_EQ(request.flags, vectors[name] << SM_HOOK_VECTOR_SHIFT) << name;
        else
            EXPECT_EQ(request.flags, SM_HOOK_IRQ_LINE) << name;
        // In the function itself, and where the kernel has been told of the interrupt.
        Gva at = request.displaced.address();
        EXPECT_GT(at, symbol(name) + 8);
        EXPECT_LT(at, *kernel_->symbols.next_address(symbol(name)));
    }
    std::set<std::string> names;
    for (const auto& [name, counts] : hooks) {
        names.insert(name);
        EXPECT_GE(counts.first, 1u) << name;
        EXPECT_GE(counts.second, 1u) << name;
    }
    EXPECT_EQ(names, expected);
}

TEST_F(IrqPlanTest, DevicesHandlersAreCalledBetweenEntryAndExit) {
    auto found = plan();
    ASSERT_TRUE(found) << found.error().message();
    unsigned calls = 0;
    std::set<Gva> exits;
    for (const HookRequest& request : found->requests)
        if (request.name == "common_interrupt%exit")
            exits.insert(request.displaced.address());
    for (const HookRequest& request : found->requests) {
        if (request.name != "common_interrupt")
            continue;
        const Instruction& call = request.displaced.instructions.front();
        EXPECT_EQ(call.branch_target(), symbol("__common_interrupt"));
        EXPECT_TRUE(exits.count(call.end()));
        calls++;
    }
    EXPECT_EQ(calls, 2u); // on the task's stack and on the interrupts'
    EXPECT_EQ(exits.size(), 2u);
    EXPECT_EQ(found->offsets.vector_irq, *kernel_->symbols.percpu_offset("vector_irq"));
    EXPECT_EQ(found->offsets.desc_action, *kernel_->btf.offset("irq_desc", "action"));
}

TEST_F(IrqPlanTest, HandlersWithinThemselvesEndWhereTheyLeave) {
    auto found = plan();
    ASSERT_TRUE(found) << found.error().message();
    unsigned exits = 0, entries = 0;
    for (const HookRequest& request : found->requests) {
        const Instruction& first = request.displaced.instructions.front();
        if (request.name == "sysvec_reschedule_ipi%exit")
            exits += first.branch_target() == symbol("irqentry_exit");
        if (request.name == "sysvec_reschedule_ipi")
            entries++;
    }
    EXPECT_EQ(entries, 1u);
    EXPECT_GE(exits, 1u);
}

TEST_F(IrqPlanTest, WhatAHostileIdtLeadsTo) {
    const IdtEntry timer = gate(236);
    auto expect_note = [&](const std::string& why) {
        auto found = plan();
        ASSERT_TRUE(found) << found.error().message();
        auto told =
            std::count_if(found->notes.begin(), found->notes.end(), [&](const std::string& note) {
                return note.find("vector 236") != note.npos && note.find(why) != note.npos;
            });
        EXPECT_EQ(told, 1) << why;
        EXPECT_EQ(found->notes.size(), 2u);
        for (const HookRequest& request : found->requests)
            EXPECT_FALSE(request.name.starts_with("sysvec_apic_timer_interrupt"));
    };
    for (uint64_t handler : {uint64_t{0}, ~uint64_t{0}, uint64_t{0xffff888000000000},
                             symbol("vfs_read").value, symbol("__entry_text_end").value - 1}) {
        set_gate(236, IdtEntry::interrupt_gate(Gva(handler), timer.selector()));
        expect_note("the entry code there calls no function");
    }
    IdtEntry trap = timer;
    trap.low |= uint64_t{1} << 40;
    set_gate(236, trap);
    expect_note("no interrupt gate");
    IdtEntry absent = timer;
    absent.low &= ~(uint64_t{1} << 47);
    for (unsigned vector = 32; vector < 256; vector++)
        set_gate(vector, absent);
    auto nothing = plan();
    ASSERT_FALSE(nothing);
    EXPECT_NE(nothing.error().message().find("watch interrupts"), std::string::npos);
    memory_->cut(kernel_->idt_gpa.value);
    auto unreadable = plan();
    ASSERT_FALSE(unreadable);
    EXPECT_NE(unreadable.error().message().find("read the IDT"), std::string::npos)
        << unreadable.error().message();
}

} // namespace
} // namespace shadowmon::test
