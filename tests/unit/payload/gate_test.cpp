/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs the very code of the gate in this process. The views are page protections: in the main view
 * slots and configuration are not there, in the shadow view the guest's stack cannot be written.
 * VMFUNC and cli trap, and the signal handler does their work, so a step in the wrong view is
 * seen. Proves that registers, flags and stack come back as they were, and that no jump into the
 * gate ends in the shadow view or leaves a slot behind.
 */
#include "payload/asm_offsets.h"
#include "payload/handler.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

using namespace shadowmon::payload;

namespace {

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

} // namespace

extern "C" {
int gate_enter(GateRegs* registers, const void* entry);
extern const u8 gate_landing[], gate_abort[];
extern const u8 sm_gate_page[], sm_gate_int20[], sm_gate_chain_jump[], sm_gate_call[],
    sm_gate_end[];

ConfigPage sm_config_page;
alignas(SM_PAGE_SIZE) u8 sm_slots[4 * SM_SLOT_STRIDE];
u64 sm_payload_no_slot;
u64 gate_test_event(u64, sm_slot* slot, u64, u32 aux, u64 tsc);
void gate_test_call_event(u64, sm_slot* slot, u64, u32 aux, u64 tsc);
}

namespace {

enum View { main_view = 0, shadow_view = 1 };

enum Status { all_seen = 70, badly, lost }; /* of a child; lost is any other, too */

/* How far a child is, for the parent that survives it. */
struct Progress {
    unsigned place;    /* which it jumps to, or the one behind the last */
    unsigned recorded; /* places where a jump made an event */
    View view;
};
Progress& progress = *static_cast<Progress*>(
    mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

/* What the signal handler and the event function see; all of it in this thread. */
View view;
unsigned vmfuncs;
bool fault_in_shadow;
bool refused_vmfunc;
const u8* entered_at; /* by a child of GateJump */
unsigned aborts;      /* since then */
GuestStack guest_stack;

unsigned events;
u64 next_address;
bool guest_masked; /* the guest makes its CALL with IF = 0 */
bool was_sti;
sm_slot* seen_slot;
u64 seen_return;
Frame seen_frame;
SavedRegs seen_regs;
u64 seen_tsc, seen_argument; /* of the slot, and as the handler is told */
u64 tsc_back;                /* how much longer ago the slot is to have been claimed */
u64 seen_flags;

void show(View to) {
    view = progress.view = to;
    const bool shadow = to == shadow_view;
    mprotect(sm_slots, sizeof(sm_slots), shadow ? PROT_READ | PROT_WRITE : PROT_NONE);
    mprotect(&sm_config_page, sizeof(sm_config_page), shadow ? PROT_READ : PROT_NONE);
    mprotect(&guest_stack, sizeof(guest_stack), shadow ? PROT_READ : PROT_READ | PROT_WRITE);
}

/* The guest has what it asked for; on with the test. */
void abort_guest(gregset_t& regs) {
    /* Once more, and it was not the guest: what it ran has destroyed what the test stands on. */
    if (entered_at && aborts++ > 0)
        _exit(view == main_view || refused_vmfunc ? lost : badly);
    regs[REG_RIP] = reinterpret_cast<greg_t>(gate_abort);
    regs[REG_EFL] &= ~greg_t{0x44500}; /* what a popfq may have set: TF, DF, NT, AC */
    /* Not all kernels can return to a stack pointer that is no address. */
    regs[REG_RSP] = reinterpret_cast<greg_t>(&guest_stack);
}

void on_trap(int, siginfo_t*, void* context) {
    auto& regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto rip = static_cast<u64>(regs[REG_RIP]);
    const auto gate = reinterpret_cast<u64>(sm_gate_page);
    const u8* code = reinterpret_cast<const u8*>(rip);
    if (rip - gate < SM_PAGE_SIZE) {
        if (memcmp(code, "\x0f\x01\xd4", 3) == 0) {
            vmfuncs++;
            if (regs[REG_RAX] == 0 && static_cast<u32>(regs[REG_RCX]) <= shadow_view) {
                show(static_cast<View>(regs[REG_RCX]));
                regs[REG_RIP] += 3;
                return;
            }
            refused_vmfunc = true;
        } else if (*code == 0xfa) { /* cli */
            /* Behind the pushfq: a user process cannot have IF = 0. */
            if (code == sm_gate_call + 1 && guest_masked)
                *reinterpret_cast<u64*>(regs[REG_RSP]) &= ~u64{SM_ASM_RFLAGS_IF};
            regs[REG_RIP] += 1;
            return;
        } else if (*code == 0xfb) { /* sti */
            was_sti = true;
            regs[REG_RIP] += 1;
            return;
        }
    }
    /* A fault for the guest. In the shadow view it would be delivered through its own IDT. */
    fault_in_shadow |= view == shadow_view && !refused_vmfunc;
    abort_guest(regs);
}

int seconds_since_jump;
constexpr int for_ever = 10;

/* A second of CPU time has gone by since the jump, or since the last one. */
void on_alarm(int, siginfo_t*, void* context) {
    auto& regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto gate = reinterpret_cast<u64>(sm_gate_page);
    /* A jump out of the gate: what the guest does with itself there is its own affair. */
    if (view == main_view && static_cast<u64>(regs[REG_RIP]) - gate >= SM_PAGE_SIZE) {
        abort_guest(regs);
        return;
    }
    /* A split lock may be made to wait for long, by the host of a VM as well. */
    if (++seconds_since_jump < for_ever)
        return;
    dprintf(2, "entered at +%#lx: runs for ever, now at +%#llx, view %d\n",
            static_cast<long>(entered_at - sm_gate_page),
            regs[REG_RIP] - reinterpret_cast<long long>(sm_gate_page), view);
    _exit(badly);
}

class Gate : public testing::Test {
  protected:
    void SetUp() override {
        stack_t alt{};
        alt.ss_size = sizeof(signal_stack_);
        alt.ss_sp = signal_stack_;
        ASSERT_EQ(sigaltstack(&alt, nullptr), 0);
        struct sigaction action {};
        action.sa_sigaction = on_trap;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int signal : {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE})
            ASSERT_EQ(sigaction(signal, &action, &old_[signal]), 0);
        show(shadow_view);
        mprotect(&sm_config_page, sizeof(sm_config_page), PROT_READ | PROT_WRITE);
        memset(sm_slots, 0, sizeof(sm_slots));
        sm_config_page.config.slots = 4;
        sm_derive(&sm_config_page.config);
        show(main_view);
        next_address = reinterpret_cast<u64>(gate_landing);
        vmfuncs = events = 0;
        fault_in_shadow = refused_vmfunc = guest_masked = was_sti = false;
        tsc_back = 0;
        sm_payload_no_slot = 0;
    }

    void TearDown() override {
        show(shadow_view);
        for (int signal : {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE})
            sigaction(signal, &old_[signal], nullptr);
    }

    GateRegs random_regs() {
        GateRegs regs;
        for (u64* r = &regs.rax; r <= &regs.rflags; r++)
            *r = random_();
        regs.rflags = random_flags();
        return regs;
    }

    /* CF, PF, AF, ZF, SF, DF, OF: what a user process may set and have back. */
    static constexpr u64 user_flags = 0xcd5;
    u64 random_flags() { return (random_() & user_flags) | 0x202; }

    /* An interrupt frame as the CPU leaves it, somewhere in the guest's stack. */
    Frame* push_frame(u64 rip, u64 rflags) {
        const u64 offset = 2 * SM_PAGE_SIZE + (random_() % SM_PAGE_SIZE & ~u64{15});
        auto* frame = reinterpret_cast<Frame*>(guest_stack.bytes + offset);
        *frame = {rip, 0x33, rflags, reinterpret_cast<u64>(frame + 1) + (random_() & 0x1f8), 0x2b};
        return frame;
    }

    /* What a CALL leaves: the address of return. */
    u64* push_return(const void* address) {
        const u64 offset = 2 * SM_PAGE_SIZE + (random_() % SM_PAGE_SIZE & ~u64{7});
        auto* at = reinterpret_cast<u64*>(guest_stack.bytes + offset);
        *at = reinterpret_cast<u64>(address);
        return at;
    }

    unsigned busy_slots() {
        show(shadow_view);
        unsigned n = 0;
        for (unsigned i = 0; i < 4; i++)
            n += slot(i)->busy != 0;
        show(main_view);
        return n;
    }

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

} // namespace

#define SM_NOT_INSTRUMENTED __attribute__((no_sanitize("address", "undefined")))

SM_NOT_INSTRUMENTED static void look_around(sm_slot* slot, u64 tsc) {
    u64 flags;
    asm volatile("pushfq; pop %0" : "=r"(flags));
    seen_flags = flags;
    events++;
    seen_slot = slot;
    seen_tsc = slot->tsc;
    seen_argument = tsc;
    slot->tsc -= tsc_back;
    memcpy(&seen_regs, reinterpret_cast<u8*>(slot) + SM_SLOT_STACK_TOP - sizeof(SavedRegs),
           sizeof(seen_regs));
}

/* What a function of the payload may do to its caller. */
SM_NOT_INSTRUMENTED static void spoil_registers() {
    asm volatile("" ::: "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "cc", "memory");
    asm volatile("mov $-1, %%rcx; mov $-1, %%rsi; mov $-1, %%rdi; mov $-1, %%r8; mov $-1, %%r9;"
                 "mov $-1, %%r10; mov $-1, %%rdx"
                 :
                 :
                 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10");
}

SM_NOT_INSTRUMENTED u64 gate_test_event(u64, sm_slot* slot, u64, u32, u64 tsc) {
    look_around(slot, tsc);
    memcpy(&seen_frame, reinterpret_cast<void*>(slot->guest_rsp + SM_ASM_FRAME_RIP),
           sizeof(seen_frame));
    const u64 next = next_address;
    spoil_registers();
    return next;
}

SM_NOT_INSTRUMENTED void gate_test_call_event(u64, sm_slot* slot, u64, u32, u64 tsc) {
    look_around(slot, tsc);
    memcpy(&seen_return, reinterpret_cast<void*>(slot->guest_rsp + SM_ASM_CALL_RIP),
           sizeof(seen_return));
    spoil_registers();
}

namespace {

TEST_F(Gate, EverythingComesBack) {
    for (int round = 0; round < 1000; round++) {
        const GateRegs before = random_regs();
        const u64 hook_rip = random_(), flags = random_flags();
        Frame* frame = push_frame(hook_rip, flags);
        const Frame pushed = *frame;
        GateRegs regs = before;
        regs.rsp = reinterpret_cast<u64>(frame);
        /* What the CPU does at INT: clears IF and TF; NT and the rest stay as they are. */
        events = vmfuncs = 0;
        ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        EXPECT_EQ(view, main_view);
        EXPECT_EQ(events, 1u);
        EXPECT_EQ(seen_argument, seen_tsc);
        EXPECT_EQ(vmfuncs, 2u);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, pushed.rsp);
        EXPECT_EQ(regs.rflags & user_flags, flags & user_flags);
        EXPECT_EQ(memcmp(&seen_frame, &pushed, sizeof(pushed)), 0);
        EXPECT_EQ(seen_regs.rdi, before.rdi);
        EXPECT_EQ(seen_regs.rsi, before.rsi);
        EXPECT_EQ(seen_regs.r8, before.r8);
        EXPECT_EQ(seen_regs.r9, before.r9);
        EXPECT_EQ(seen_regs.r10, before.r10);
        /* Only the arithmetic flags that the gate's own code leaves. */
        EXPECT_EQ(seen_flags & 0x40000 /* AC */, 0u);
        EXPECT_EQ(seen_flags & 0x400 /* DF */, 0u);
        /* The frame continues at the displaced code with interrupts off, else unchanged. */
        EXPECT_EQ(frame->rip, next_address);
        EXPECT_EQ(frame->rflags, pushed.rflags & ~u64{SM_ASM_RFLAGS_IF});
        EXPECT_EQ(frame->cs, pushed.cs);
        EXPECT_EQ(frame->rsp, pushed.rsp);
        EXPECT_EQ(frame->ss, pushed.ss);
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
    EXPECT_EQ(busy_slots(), 0u);
}

TEST_F(Gate, StackChoosesTheSlotToTryFirst) {
    GateRegs regs = random_regs();
    regs.rsp = reinterpret_cast<u64>(push_frame(0, random_flags()));
    const u64 hint = (regs.rsp - 24) >> SM_ASM_STACK_ALIGN_SHIFT & 3;
    ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
    EXPECT_EQ(seen_slot, slot(hint));
}

/* Of how many claims the time is taken, what comes back then, and what is left out. */
TEST_F(Gate, SamplesHowLongASlotIsHeld) {
    auto enter = [&] {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        Frame* frame = push_frame(0, random_flags());
        regs.rsp = reinterpret_cast<u64>(frame);
        EXPECT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        expect_same(regs, before);
        EXPECT_EQ(frame->rip, next_address);
    };
    auto only_slot = [&] {
        show(shadow_view);
        for (unsigned i = 1; i < 4; i++)
            slot(i)->busy = 1;
        show(main_view);
    };
    auto seen = [&] {
        show(shadow_view);
        const sm_slot copy = *slot(0);
        show(main_view);
        return copy;
    };
    only_slot();
    for (unsigned i = 0; i < 10 * SM_SAMPLE_PERIOD; i++) {
        enter();
        const sm_slot now = seen();
        EXPECT_EQ(now.sampled + now.samples_cut, i / SM_SAMPLE_PERIOD + 1);
        EXPECT_EQ(now.busy, 0u);
    }
    const sm_slot first = seen();
    /* The host may have taken the CPU away in the middle of one or the other. */
    EXPECT_GT(first.sampled, 0u);
    EXPECT_GT(first.sampled_ticks, 0u);
    EXPECT_LT(first.sampled_ticks, first.sampled * SM_SAMPLE_MAX);

    for (u64 back : {u64{SM_SAMPLE_MAX}, ~u64{1000000000}}) {
        tsc_back = back;
        const u64 cut = seen().samples_cut;
        for (unsigned i = 0; i < SM_SAMPLE_PERIOD; i++)
            enter();
        EXPECT_EQ(seen().samples_cut, cut + 1);
        EXPECT_EQ(seen().sampled_ticks, first.sampled_ticks);
    }
}

TEST_F(Gate, TakenSlotIsPassedOver) {
    for (unsigned taken = 1; taken <= 3; taken++) {
        GateRegs before = random_regs(), regs = before;
        regs.rsp = reinterpret_cast<u64>(push_frame(0, random_flags()));
        const u64 hint = (regs.rsp - 24) >> SM_ASM_STACK_ALIGN_SHIFT & 3;
        show(shadow_view);
        for (unsigned i = 0; i < 4; i++)
            slot(i)->busy = ((i - hint) & 3) < taken;
        show(main_view);
        ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        EXPECT_EQ(seen_slot, slot((hint + taken) & 3));
        expect_same(regs, before);
        EXPECT_EQ(busy_slots(), taken);
        EXPECT_EQ(sm_payload_no_slot, 0u);
    }
}

TEST_F(Gate, WithoutASlotTheIntIsTriedAgain) {
    show(shadow_view);
    for (unsigned i = 0; i < 4; i++)
        slot(i)->busy = 1;
    show(main_view);
    for (u64 flags : {0x2, 0x202, 0xad7}) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        /* Two bytes before the address of return is where the INT was. */
        Frame* frame = push_frame(reinterpret_cast<u64>(gate_landing) + 2, flags);
        const Frame pushed = *frame;
        regs.rsp = reinterpret_cast<u64>(frame);
        events = 0;
        const u64 earlier = sm_payload_no_slot;
        ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
        EXPECT_EQ(events, 0u);
        EXPECT_EQ(sm_payload_no_slot, earlier + 1);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, pushed.rsp);
        EXPECT_EQ(frame->rflags, pushed.rflags) << "IF is as it was at the INT";
    }
    EXPECT_EQ(busy_slots(), 4u);
}

TEST_F(Gate, UnknownHookContinuesAfterTheInt) {
    next_address = SM_ASM_RESUME_CHAIN;
    const GateRegs before = random_regs();
    GateRegs regs = before;
    const u64 flags = random_flags();
    Frame* frame = push_frame(reinterpret_cast<u64>(gate_landing), flags);
    const Frame pushed = *frame;
    regs.rsp = reinterpret_cast<u64>(frame);
    ASSERT_EQ(gate_enter(&regs, sm_gate_int20), 0);
    EXPECT_EQ(view, main_view);
    expect_same(regs, before);
    EXPECT_EQ(regs.rsp, pushed.rsp);
    EXPECT_EQ(memcmp(frame, &pushed, sizeof(pushed)), 0) << "the frame is as delivered";
    EXPECT_EQ(busy_slots(), 0u);
}

TEST_F(Gate, ChainJumpIsAPatchableJump) {
    ASSERT_EQ(sm_gate_chain_jump[0], 0xe9);
    s32 rel;
    memcpy(&rel, sm_gate_chain_jump + 1, sizeof(rel));
    const u8* target = sm_gate_chain_jump + 5 + rel;
    EXPECT_EQ(memcmp(target, "\x48\xcf", 2), 0) << "iretq, as linked";
}

TEST_F(Gate, CallComesBackToItsReturn) {
    for (int round = 0; round < 1000; round++) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        u64* at = push_return(gate_landing);
        const u64 above = at[1] = random_();
        regs.rsp = reinterpret_cast<u64>(at);
        events = vmfuncs = 0;
        was_sti = false;
        guest_masked = round % 2;
        ASSERT_EQ(gate_enter(&regs, sm_gate_call), 0);
        EXPECT_EQ(view, main_view);
        EXPECT_EQ(events, 1u);
        EXPECT_EQ(seen_argument, seen_tsc);
        EXPECT_EQ(vmfuncs, 2u);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, reinterpret_cast<u64>(at + 1));
        EXPECT_EQ(at[1], above);
        EXPECT_EQ(regs.rflags & user_flags, before.rflags & user_flags);
        EXPECT_EQ(was_sti, !guest_masked) << "interrupts are on again where they were on";
        EXPECT_EQ(seen_return, reinterpret_cast<u64>(gate_landing));
        EXPECT_EQ(seen_regs.rdi, before.rdi);
        EXPECT_EQ(seen_regs.rsi, before.rsi);
        EXPECT_EQ(seen_regs.r8, before.r8);
        EXPECT_EQ(seen_regs.r9, before.r9);
        EXPECT_EQ(seen_flags & 0x40400 /* AC, DF */, 0u);
        const u64 hint = (reinterpret_cast<u64>(at) - SM_ASM_CALL_RIP) >> SM_ASM_STACK_ALIGN_SHIFT;
        EXPECT_EQ(seen_slot, slot(hint & 3));
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
    EXPECT_EQ(busy_slots(), 0u);
}

TEST_F(Gate, CallPassesOverTakenSlots) {
    for (unsigned taken = 1; taken <= 3; taken++) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        u64* at = push_return(gate_landing);
        regs.rsp = reinterpret_cast<u64>(at);
        const u64 hint = (regs.rsp - SM_ASM_CALL_RIP) >> SM_ASM_STACK_ALIGN_SHIFT & 3;
        show(shadow_view);
        for (unsigned i = 0; i < 4; i++)
            slot(i)->busy = ((i - hint) & 3) < taken;
        show(main_view);
        ASSERT_EQ(gate_enter(&regs, sm_gate_call), 0);
        EXPECT_EQ(seen_slot, slot((hint + taken) & 3));
        expect_same(regs, before);
        EXPECT_EQ(busy_slots(), taken);
    }
}

TEST_F(Gate, WithoutASlotTheCallIsTriedAgain) {
    show(shadow_view);
    for (unsigned i = 0; i < 4; i++)
        slot(i)->busy = 1;
    show(main_view);
    for (bool masked : {false, true}) {
        const GateRegs before = random_regs();
        GateRegs regs = before;
        /* Five bytes before the address of return is where the CALL was. */
        u64* at = push_return(gate_landing + SM_ASM_CALL_LENGTH);
        regs.rsp = reinterpret_cast<u64>(at);
        const u64 earlier = sm_payload_no_slot;
        events = 0;
        was_sti = false;
        guest_masked = masked;
        ASSERT_EQ(gate_enter(&regs, sm_gate_call), 0);
        EXPECT_EQ(events, 0u);
        EXPECT_EQ(sm_payload_no_slot, earlier + 1);
        expect_same(regs, before);
        EXPECT_EQ(regs.rsp, reinterpret_cast<u64>(at + 1)) << "the CALL pushes it anew";
        EXPECT_EQ(regs.rflags & user_flags, before.rflags & user_flags);
        EXPECT_EQ(was_sti, !masked) << "a drain and interrupts get in between";
    }
    EXPECT_EQ(busy_slots(), 4u);
}

/*
 * The guest jumps to every byte of the gates, with the registers that matter chosen to hurt. In a
 * child: a jump that leaves the gate in the main view may run any code there is, and so destroy
 * what the test stands on, or never end. That is the guest's own affair, and the next child goes
 * on behind that place; in the shadow view nothing is.
 */
class GateJump : public Gate {
  protected:
    /* To all places from progress.place on. */
    [[noreturn]] void jump_everywhere() {
        struct sigaction action {};
        action.sa_sigaction = on_alarm;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGVTALRM, &action, nullptr);
        /* Ends whom no signal reaches any more. */
        const rlimit seconds = {40, 40}; /* of CPU time; all of it takes one */
        setrlimit(RLIMIT_CPU, &seconds);
        for (; sm_gate_page + progress.place < sm_gate_end; progress.place++) {
            const unsigned before = events;
            jump(sm_gate_page + progress.place);
            progress.recorded += events != before;
        }
        _exit(all_seen);
    }

  private:
    void jump(const u8* entry) {
        const itimerval second = {{.tv_sec = 1, .tv_usec = 0}, {.tv_sec = 1, .tv_usec = 0}};
        const u64 interesting[] = {
            0, 1, 2, 0xffffffff, 0x100000000, 0x100000001, 0x8000000000000000, ~u64{0}};
        entered_at = entry;
        random_.seed(progress.place);
        for (int round = 0; round < 8; round++) {
            GateRegs regs = random_regs();
            /* No address of this process: a store through it faults. */
            for (u64* r = &regs.rax; r <= &regs.r15; r++)
                *r |= 0x00ff000000000000;
            for (u64* r : {&regs.rax, &regs.rcx, &regs.rdx})
                *r = interesting[random_() % std::size(interesting)];
            if (round % 2) /* the pair that enters the shadow view at any VMFUNC */
                regs.rax = 0, regs.rcx = 1;
            next_address = round % 3 ? reinterpret_cast<u64>(gate_landing) : 0;
            Frame* frame = push_frame(reinterpret_cast<u64>(gate_landing) + (round % 5 ? 0 : 2),
                                      random_flags());
            regs.rsp = reinterpret_cast<u64>(frame) - 24;
            setitimer(ITIMER_VIRTUAL, &second, nullptr);
            seconds_since_jump = 0;
            aborts = 0;
            gate_enter(&regs, entry);
            if (fault_in_shadow || (view == shadow_view && !refused_vmfunc)) {
                dprintf(2, "entered at +%#x: ends in the shadow view%s\n", progress.place,
                        fault_in_shadow ? " by a fault" : "");
                _exit(badly);
            }
            refused_vmfunc = false;
            if (view != main_view)
                show(main_view);
        }
        if (busy_slots() != 0) {
            dprintf(2, "entered at +%#x: a slot stays claimed\n", progress.place);
            _exit(badly);
        }
    }
};

TEST_F(GateJump, NoneEndsInTheShadowView) {
    const auto places = static_cast<unsigned>(sm_gate_end - sm_gate_page);
    unsigned lost_places = 0;
    progress = {};
    for (int status = 0; !(WIFEXITED(status) && WEXITSTATUS(status) == all_seen);) {
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0)
            jump_everywhere();
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == badly);
        if (WIFEXITED(status) && WEXITSTATUS(status) == all_seen)
            continue;
        ASSERT_EQ(progress.view, main_view) << "lost from +" << progress.place;
        progress.place++;
        lost_places++;
    }
    EXPECT_EQ(progress.place, places);
    EXPECT_GT(progress.recorded, 0u);
    EXPECT_LT(lost_places, places / 20) << "nearly all have to be seen to their end";
}

} // namespace
