/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Interrupts: what an entry and an exit of the guest's handlers make. */
#include "tests/unit/payload/handler_fixture.h"

namespace shadowmon::payload::test {
namespace {

constexpr u64 irq_rip = 0xffffffff9a100812, irq_exit_rip = 0xffffffff9a100912,
              line_rip = 0xffffffff9a100a12, line_exit_rip = 0xffffffff9a100b12;
constexpr u64 irq_desc = FakeMachine::direct_map + 0x200000,
              irq_action = FakeMachine::direct_map + 0x210000, irq_handler = 0xffffffffc0123450;

class IrqHandlerTest : public HandlerTest {
  protected:
    IrqHandlerTest() {
        m.config_.irq = {
            .vector_irq = 0x20000, .desc_irq = 0x24, .desc_action = 0x68, .action_handler = 0};
        m.add_hook(irq_rip, 10, SM_EVENT_IRQ_ENTER, 236 << SM_HOOK_VECTOR_SHIFT);
        m.add_hook(irq_exit_rip, 11, SM_EVENT_IRQ_EXIT, 236 << SM_HOOK_VECTOR_SHIFT);
        m.add_hook(line_rip, 12, SM_EVENT_IRQ_ENTER, SM_HOOK_IRQ_LINE);
        m.add_hook(line_exit_rip, 13, SM_EVENT_IRQ_EXIT, SM_HOOK_IRQ_LINE);
        set_desc(irq_desc);
        m.write(irq_desc + 0x24, u32{4});
        m.write(irq_desc + 0x68, irq_action);
        m.write(irq_action, irq_handler);
    }
    void set_desc(u64 desc) { m.write(m.gs_base() + 0x20000 + 8 * 38, desc); }
    sm_body_irq_enter line(u64 vector = 38) {
        m.ring() = {};
        hit(line_rip, regs_at, vector, interrupts_off);
        return first<sm_event_irq_enter>().b;
    }
    void expect_line(const sm_body_irq_enter& b, u32 vector, u32 irq, u64 handler) {
        EXPECT_EQ(b.vector, vector);
        EXPECT_EQ(b.irq, irq);
        EXPECT_EQ(b.handler, handler);
    }
};

TEST_F(IrqHandlerTest, SystemVector) {
    EXPECT_EQ(hit(irq_rip, regs_at, 38, interrupts_off), irq_rip + 0x2000000);
    const auto e = first<sm_event_irq_enter>();
    expect_header(e.h, SM_EVENT_IRQ_ENTER, 0, 104, 10);
    expect_cat(e.h);
    expect_line(e.b, 236, SM_IRQ_UNKNOWN, 0);
    EXPECT_EQ(e.b.nth, 0u);
    m.ring() = {};
    EXPECT_EQ(hit(irq_exit_rip, regs_at, 38, interrupts_off), irq_exit_rip + 0x2000000);
    const auto x = first<sm_event_irq_exit>();
    expect_header(x.h, SM_EVENT_IRQ_EXIT, 0, 96, 11);
    expect_cat(x.h);
    EXPECT_EQ(x.b.vector, 236u);
    EXPECT_EQ(x.b.nth, 1u);
}

TEST_F(IrqHandlerTest, LineOfADevice) {
    expect_line(line(), 38, 4, irq_handler);
    m.ring() = {};
    hit(line_exit_rip, regs_at, 38, interrupts_off);
    const auto x = first<sm_event_irq_exit>();
    expect_header(x.h, SM_EVENT_IRQ_EXIT, 0, 96, 13);
    EXPECT_EQ(x.b.vector, SM_IRQ_UNKNOWN);
    EXPECT_EQ(x.b.nth, 1u);
}

/* The fake machine fails the test at every load that would fault. */
TEST_F(IrqHandlerTest, NoPointerOnTheWayIsTrusted) {
    const u64 bad[] = {0,
                       1,
                       ~u64{0},
                       ~u64{0} - 4095,
                       u64{1} << 63,
                       0xffffc90000000000,
                       FakeMachine::direct_map - 0x100,
                       FakeMachine::direct_map + FakeMachine::ram_size - 2};
    for (u64 desc : bad) {
        set_desc(desc);
        expect_line(line(), 38, SM_IRQ_UNKNOWN, 0);
    }
    set_desc(irq_desc);
    for (u64 action : bad) {
        m.write(irq_desc + 0x68, action);
        expect_line(line(), 38, 4, 0);
    }
    for (u64 vector : {u64{256}, ~u64{0}, u64{1} << 40 | 38})
        expect_line(line(vector), SM_IRQ_UNKNOWN, SM_IRQ_UNKNOWN, 0);
    m.config_.irq = {};
    expect_line(line(), 38, SM_IRQ_UNKNOWN, 0);
    m.gs_base_ = 0x1234;
    m.config_.irq.vector_irq = 0x20000;
    expect_line(line(), 38, SM_IRQ_UNKNOWN, 0);
}

TEST_F(IrqHandlerTest, LostOnesAreNumbered) {
    for (int i = 0; i < 100; i++) /* more than the ring holds */
        hit(i % 2 ? irq_exit_rip : irq_rip, regs_at, 0, interrupts_off);
    EXPECT_EQ(m.irq_counts_[5], 100u);
    EXPECT_GT(m.ring().lost[SM_EVENT_IRQ_ENTER] + m.ring().lost[SM_EVENT_IRQ_EXIT], 10u);
    m.ring() = {};
    hit(irq_rip, regs_at, 0, interrupts_off);
    sm_event_irq_enter event; /* behind the record of what was lost */
    ASSERT_GT(m.ring().head, sizeof(event));
    memcpy(&event, m.data() + m.ring().head - sizeof(event), sizeof(event));
    expect_header(event.h, SM_EVENT_IRQ_ENTER, 0, 104, 10);
    EXPECT_EQ(event.b.nth, 100u);
}

} // namespace
} // namespace shadowmon::payload::test
