/* SPDX-License-Identifier: GPL-2.0-or-later */
/* struct pt_regs of x86-64 Linux, as its entry code pushes it: part of the kernel's user ABI. */
#ifndef SHADOWMONITOR_PAYLOAD_PT_REGS_H
#define SHADOWMONITOR_PAYLOAD_PT_REGS_H

#include "payload/address.h"

namespace shadowmon::payload {

struct PtRegs {
    u64 r15, r14, r13, r12, bp, bx;
    u64 r11, r10, r9, r8, ax, cx, dx, si, di;
    u64 orig_ax;
    u64 ip, cs, flags, sp, ss;
};
static_assert(sizeof(PtRegs) == 168);
static_assert(offsetof(PtRegs, orig_ax) == 120);

} // namespace shadowmon::payload

#endif
