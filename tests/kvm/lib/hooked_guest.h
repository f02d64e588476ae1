/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest code of hooked_guest.S: one instruction with a hook on it, reached with registers,
 * flags and a timer as the test wants them. What it is told and what it tells is in the page of
 * the GS base, behind what layout.h has there.
 */
#ifndef SHADOWMONITOR_TESTS_KVM_HOOKED_GUEST_H
#define SHADOWMONITOR_TESTS_KVM_HOOKED_GUEST_H

#define HG_DELTA 1024 /* ticks from the timer's setting to its expiry; 0: no timer */
#define HG_SPIN 1032  /* passes of a loop, two instructions each */
#define HG_TICKS                                                                                   \
    1040            /* out: TSC ticks from before the registers are loaded to after they are kept */
#define HG_IN 1048  /* rax rcx rdx rbx rbp rsi rdi r8-r15 rflags, at the hook */
#define HG_OUT 1176 /* the same behind it */
#define HG_REGS 16
#define HG_STEPS 1304 /* #DBs */
#define HG_ODD 1312   /* nonzero: one instruction more */
#define HG_STEP_LOG 2304
#define HG_STEP_LOG_SIZE 220 /* RIPs of the first ones */

#define HG_SLED 16 /* NOPs before and behind the hook */

#ifndef __ASSEMBLER__
#include "tests/kvm/lib/guest.h"

extern "C" {
#define HG_SYMBOL(name) extern const uint8_t name[]
HG_SYMBOL(hooked_text_begin);
HG_SYMBOL(hooked_text_end);
HG_SYMBOL(hooked_by_int);
HG_SYMBOL(hooked_by_int_sled);
HG_SYMBOL(hooked_by_int_site);
HG_SYMBOL(hooked_by_int_end);
HG_SYMBOL(hooked_by_call);
HG_SYMBOL(hooked_by_call_sled);
HG_SYMBOL(hooked_by_call_site);
HG_SYMBOL(hooked_by_call_end);
HG_SYMBOL(unhooked_int);
HG_SYMBOL(unhooked_call);
HG_SYMBOL(hooked_loop);
HG_SYMBOL(hooked_loop_site);
HG_SYMBOL(hooked_loop_end);
HG_SYMBOL(hooked_debug_entry);
#undef HG_SYMBOL
}

namespace shadowmon::kvmtest {

struct HookedControl {
    uint64_t delta;
    uint64_t spin;
    uint64_t ticks;
    uint64_t in[HG_REGS];
    uint64_t out[HG_REGS];
    uint64_t steps;
    uint64_t odd;
};
static_assert(offsetof(HookedControl, spin) == HG_SPIN - HG_DELTA);
static_assert(offsetof(HookedControl, ticks) == HG_TICKS - HG_DELTA);
static_assert(offsetof(HookedControl, in) == HG_IN - HG_DELTA);
static_assert(offsetof(HookedControl, out) == HG_OUT - HG_DELTA);
static_assert(offsetof(HookedControl, steps) == HG_STEPS - HG_DELTA);
static_assert(offsetof(HookedControl, odd) == HG_ODD - HG_DELTA);
static_assert(sizeof(GuestContext) <= HG_DELTA);
static_assert(HG_ODD + 8 <= 0x800 && 0x808 <= HG_STEP_LOG); // the task pointer is between them
static_assert(HG_STEP_LOG + 8 * HG_STEP_LOG_SIZE <= TG_PAGE_SIZE);

} // namespace shadowmon::kvmtest
#endif

#endif
