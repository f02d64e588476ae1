/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SHADOWMONITOR_PAYLOAD_SAVED_REGS_H
#define SHADOWMONITOR_PAYLOAD_SAVED_REGS_H

#include "payload/address.h"
#include "payload/asm_offsets.h"

namespace shadowmon::payload {

/* Registers of the guest that the gates save, at the top of the slot's stack. */
struct SavedRegs {
    u64 rsi, rdi, r8, r9, r10;
};
static_assert(offsetof(SavedRegs, rsi) == SM_ASM_SAVED_RSI);
static_assert(offsetof(SavedRegs, rdi) == SM_ASM_SAVED_RDI);
static_assert(sizeof(SavedRegs) == SM_ASM_SAVED_SIZE);

} // namespace shadowmon::payload

#endif
