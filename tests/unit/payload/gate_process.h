/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The very code of the gate in this process. The views are page protections: in the main view slots
 * and configuration are not there, in the shadow view the guest's stack cannot be written. VMFUNC
 * and cli trap, and the signal handler does their work, so a step in the wrong view is seen.
 */
#pragma once

#include "payload/asm_offsets.h"
#include "payload/handler.h"

#include <gtest/gtest.h>

#include <csignal>
#include <random>

namespace shadowmon::payload {

struct GateRegs {
    u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rsp, rflags;
};

struct Frame {
    u64 rip, cs, rflags, rsp, ss;
};

struct alignas(SM_PAGE_SIZE) ConfigPage {
    sm_config config;
    u8 rest[SM_PAGE_SIZE - sizeof(sm_config)];
};

struct alignas(SM_PAGE_SIZE) GuestStack {
    u8 bytes[4 * SM_PAGE_SIZE];
};

} // namespace shadowmon::payload

extern "C" {
int gate_enter(shadowmon::payload::GateRegs* registers, const void* entry);
extern const shadowmon::payload::u8 gate_landing[], gate_abort[];
extern const shadowmon::payload::u8 sm_gate_page[], sm_gate_int20[], sm_gate_chain_jump[],
    sm_gate_call[], sm_gate_end[];

extern shadowmon::payload::ConfigPage sm_config_page;
alignas(SM_PAGE_SIZE) extern shadowmon::payload::u8 sm_slots[4 * SM_SLOT_STRIDE];
extern shadowmon::payload::u64 sm_payload_no_slot;
}

namespace shadowmon::payload {

enum View { main_view = 0, shadow_view = 1 };

/* Of a child of GateJump; lost is any other, too. */
enum Status { all_seen = 70, badly, lost };

/* How far a child is, for the parent that survives it. */
struct Progress {
    unsigned place;    /* which it jumps to, or the one behind the last */
    unsigned recorded; /* places where a jump made an event */
    View view;
};
extern Progress& progress; /* shared with the children */

/* What the signal handler and the event functions see; all of it in this thread. */
extern View view;
extern unsigned vmfuncs;
extern bool fault_in_shadow;
extern bool refused_vmfunc;
extern const u8* entered_at; /* by a child of GateJump */
extern unsigned aborts;      /* since then */
extern GuestStack guest_stack;

extern unsigned events;
extern u64 next_address;
extern bool guest_masked; /* the guest makes its CALL with IF = 0 */
extern bool was_sti;
extern sm_slot* seen_slot;
extern u64 seen_return;
extern Frame seen_frame;
extern SavedRegs seen_regs;
extern u64 seen_tsc, seen_argument; /* of the slot, and as the handler is told */
extern u64 tsc_back;                /* how much longer ago the slot is to have been claimed */
extern u64 seen_flags;

void show(View to);
/* From a signal handler: the guest has what it asked for; on with the test. */
void abort_guest(gregset_t& regs);

class Gate : public testing::Test {
  protected:
    void SetUp() override;
    void TearDown() override;

    GateRegs random_regs();

    /* CF, PF, AF, ZF, SF, DF, OF: what a user process may set and have back. */
    static constexpr u64 user_flags = 0xcd5;
    u64 random_flags() { return (random_() & user_flags) | 0x202; }

    /* An interrupt frame as the CPU leaves it, somewhere in the guest's stack. */
    Frame* push_frame(u64 rip, u64 rflags);

    /* What a CALL leaves: the address of return. */
    u64* push_return(const void* address);

    unsigned busy_slots();

    static sm_slot* slot(unsigned i) {
        return reinterpret_cast<sm_slot*>(sm_slots + i * SM_SLOT_STRIDE);
    }

    static void expect_same(const GateRegs& a, const GateRegs& b) {
        for (unsigned i = 0; i < offsetof(GateRegs, rsp) / 8; i++)
            EXPECT_EQ((&a.rax)[i], (&b.rax)[i]) << "register " << i;
    }

    std::mt19937_64 random_{42};

  private:
    alignas(16) static inline u8 signal_stack_[1 << 16];
    struct sigaction old_[NSIG];
};

} // namespace shadowmon::payload
