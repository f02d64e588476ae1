/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/payload/gate_process.h"

#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

using namespace shadowmon::payload;

extern "C" {
ConfigPage sm_config_page;
alignas(SM_PAGE_SIZE) u8 sm_slots[4 * SM_SLOT_STRIDE];
u64 sm_payload_no_slot;
u64 gate_test_event(u64, sm_slot* slot, u64, u32 aux, u64 tsc);
void gate_test_call_event(u64, sm_slot* slot, u64, u32 aux, u64 tsc);
}

namespace shadowmon::payload {

Progress& progress = *static_cast<Progress*>(
    mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

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

void abort_guest(gregset_t& regs) {
    /* Once more, and it was not the guest: what it ran has destroyed what the test stands on. */
    if (entered_at && aborts++ > 0)
        _exit(view == main_view || refused_vmfunc ? lost : badly);
    regs[REG_RIP] = reinterpret_cast<greg_t>(gate_abort);
    regs[REG_EFL] &= ~greg_t{0x44500}; /* what a popfq may have set: TF, DF, NT, AC */
    /* Not all kernels can return to a stack pointer that is no address. */
    regs[REG_RSP] = reinterpret_cast<greg_t>(&guest_stack);
}

static void on_trap(int, siginfo_t*, void* context) {
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

void Gate::SetUp() {
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

void Gate::TearDown() {
    show(shadow_view);
    for (int signal : {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE})
        sigaction(signal, &old_[signal], nullptr);
}

GateRegs Gate::random_regs() {
    GateRegs regs;
    for (u64* r = &regs.rax; r <= &regs.rflags; r++)
        *r = random_();
    regs.rflags = random_flags();
    return regs;
}

Frame* Gate::push_frame(u64 rip, u64 rflags) {
    const u64 offset = 2 * SM_PAGE_SIZE + (random_() % SM_PAGE_SIZE & ~u64{15});
    auto* frame = reinterpret_cast<Frame*>(guest_stack.bytes + offset);
    *frame = {rip, 0x33, rflags, reinterpret_cast<u64>(frame + 1) + (random_() & 0x1f8), 0x2b};
    return frame;
}

u64* Gate::push_return(const void* address) {
    const u64 offset = 2 * SM_PAGE_SIZE + (random_() % SM_PAGE_SIZE & ~u64{7});
    auto* at = reinterpret_cast<u64*>(guest_stack.bytes + offset);
    *at = reinterpret_cast<u64>(address);
    return at;
}

unsigned Gate::busy_slots() {
    show(shadow_view);
    unsigned n = 0;
    for (unsigned i = 0; i < 4; i++)
        n += slot(i)->busy != 0;
    show(main_view);
    return n;
}

} // namespace shadowmon::payload

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
