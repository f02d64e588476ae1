/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The event handler for the real machine, as the gate calls it, and what the host looks up. */
#include "payload/handler.h"
#include "payload/machine.h"

using namespace shadowmon::payload;

extern "C" {

/* Names of symbols.h. */
[[gnu::used]] extern const u32 sm_payload_abi_version = SM_ABI_VERSION;
u64 sm_payload_no_slot = 0;

/* (rdi, rsi, rdx, ecx) by the gate; trusted stack, interrupts off, flags clear. */
[[gnu::flatten]] u64 sm_payload_event(sm_slot* slot, u64 tsc, const SavedRegs* regs, u32 aux) {
    const Machine machine;
    return handle_event(machine, *slot, tsc, *regs, aux);
}
}
