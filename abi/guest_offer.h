/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * The cooperative mode: how a module in the guest (guest/) offers the address range of
 * the compartment, and what KVM, which keeps the offer, answers. The host verifies an
 * offer before it uses it; nothing of the monitor's isolation depends on it.
 *
 *   reserve: entry 0 -> reservation      by the guest, one atomic exchange
 *   offer:   SM_HYPERCALL_OFFER          KVM remembers it, one per VM
 *   armed:   reservation -> its own      by the host, all vCPUs stopped
 *   leaving: its own -> reservation      by KVM, when the monitor leaves or dies
 *   withdraw: SM_HYPERCALL_WITHDRAW, then reservation -> 0 by an atomic exchange
 *
 * A monitor that was told of the offer may arm between the last two steps; then the
 * exchange fails, and the guest keeps the range reserved.
 *
 * KVM's convention: VMCALL in 64-bit mode and ring 0, number in RAX, arguments in RBX,
 * RCX, RDX, RSI, answer in RAX.
 *
 *   RAX  SM_HYPERCALL
 *   RBX  SM_HYPERCALL_OFFER           SM_HYPERCALL_WITHDRAW
 *   RCX  first address of the range   0
 *   RDX  bytes of the range           0
 *   RSI  guest-physical address of    0
 *        its page-table entry
 *
 * An offer takes the place of the one before; a reset of the boot vCPU ends it, and so
 * does a migration. Answers:
 *   0            done
 *   -ENOENT      (WITHDRAW) there is no offer
 *   -EPERM       not in ring 0
 *   -EINVAL      not in 64-bit mode, or an argument that cannot be
 *   -EBUSY       a monitor is armed: the range stays reserved, ask again later
 *   -ENOMEM      the host is short of memory
 *   -EOPNOTSUPP  (95) another version of this interface
 *   -KVM_ENOSYS  (-1000) a KVM without ShadowMonitor
 */
#ifndef SHADOWMONITOR_ABI_GUEST_OFFER_H
#define SHADOWMONITOR_ABI_GUEST_OFFER_H

#define SM_HYPERCALL 0x534d4f46 /* "SMOF", far from the numbers that KVM gives */

/* Goes up with every change that an old module or an old KVM would not understand. */
#define SM_OFFER_VERSION 1

#define SM_HYPERCALL_OPERATION_BITS 16
#define SM_HYPERCALL_OPERATION_MASK 0xffff
#define SM_HYPERCALL_OFFER (SM_OFFER_VERSION << SM_HYPERCALL_OPERATION_BITS | 1)
#define SM_HYPERCALL_WITHDRAW (SM_OFFER_VERSION << SM_HYPERCALL_OPERATION_BITS | 2)

/*
 * A reservation: the address of a page of zeroes and these low bits. Not present to the
 * CPU, which therefore keeps no copy of it that would have to be flushed; not empty to
 * the guest's kernel, and whatever of it walks there finds a table without entries.
 */
#define SM_RESERVATION_BITS 0xa00 /* two that Linux and the CPU leave to software */
#define SM_RESERVATION_BITS_MASK 0xfff

#endif
