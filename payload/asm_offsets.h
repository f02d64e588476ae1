/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers that the assembly needs of C structs. Included by .S and by C++; the C++
 * side proves each of them against the struct it stands for.
 */
#ifndef SHADOWMONITOR_PAYLOAD_ASM_OFFSETS_H
#define SHADOWMONITOR_PAYLOAD_ASM_OFFSETS_H

#include "abi/layout.h"

#define SM_ASM_CONFIG_SLOTS 16 /* struct sm_config: slots, derived.slot_offset_mask */
#define SM_ASM_CONFIG_SLOT_OFFSET_MASK 328
#define SM_ASM_SLOT_BUSY 0      /* struct sm_slot: busy */
#define SM_ASM_SLOT_GUEST_RSP 8 /* struct sm_slot: guest_rsp, tsc */
#define SM_ASM_SLOT_TSC 16
#define SM_ASM_SLOT_NEXT_SAMPLE 52
#define SM_ASM_SLOT_SAMPLED 56
#define SM_ASM_SLOT_SAMPLED_TICKS 64
#define SM_ASM_SLOT_SAMPLES_CUT 72
#define SM_ASM_STACK_ALIGN_SHIFT 14
#define SM_ASM_HINT_FACTOR 4

#define SM_ASM_SAMPLE_PERIOD 63
#define SM_ASM_SAMPLE_MAX 1000

/* What the gates put on the guest's stack, below the interrupt frame or the address of return. */
#define SM_ASM_FRAME_RDX 0
#define SM_ASM_FRAME_RCX 8
#define SM_ASM_FRAME_RAX 16
#define SM_ASM_FRAME_RIP 24
#define SM_ASM_FRAME_RFLAGS 40
#define SM_ASM_FRAME_RSP 48
#define SM_ASM_FRAME_SIZE 64
#define SM_ASM_CALL_RFLAGS 24
#define SM_ASM_CALL_RIP 32
#define SM_ASM_CALL_SIZE 40

/* What the gate saves on the trusted stack, from its lowest address up. */
#define SM_ASM_SAVED_RSI 0
#define SM_ASM_SAVED_RDI 8
#define SM_ASM_SAVED_SIZE 40

#define SM_ASM_RFLAGS_RESERVED 0x2 /* the bit that is always 1; all others clear */
#define SM_ASM_RFLAGS_IF 0x200
#define SM_ASM_RFLAGS_IF_BIT 9
#define SM_ASM_CALL_LENGTH 5

/* What the handler returns instead of an address to continue at (which has bit 63 set). */
#define SM_ASM_RESUME_CHAIN 0 /* no hook of ours: the guest's own handler, or after the INT */
#define SM_ASM_RESUME_RETRY 1 /* used by the gate itself: execute the INT again */

/* Slots looked at before the guest is sent back to try again; a multiple of SM_MAX_SLOTS. */
#define SM_ASM_CLAIM_LIMIT (8 * SM_MAX_SLOTS)

#ifdef __cplusplus
#include "abi/config.h"
static_assert(offsetof(struct sm_config, slots) == SM_ASM_CONFIG_SLOTS);
static_assert(offsetof(struct sm_config, derived.slot_offset_mask) ==
              SM_ASM_CONFIG_SLOT_OFFSET_MASK);
static_assert(SM_ASM_RFLAGS_IF == 1 << SM_ASM_RFLAGS_IF_BIT);
/* A stack's 16 KiB block times SM_SLOT_STRIDE is the stack pointer times this. */
static_assert(SM_SLOT_STRIDE >> SM_ASM_STACK_ALIGN_SHIFT == SM_ASM_HINT_FACTOR);
static_assert(offsetof(struct sm_slot, busy) == SM_ASM_SLOT_BUSY);
static_assert(offsetof(struct sm_slot, guest_rsp) == SM_ASM_SLOT_GUEST_RSP);
static_assert(offsetof(struct sm_slot, tsc) == SM_ASM_SLOT_TSC);
static_assert(offsetof(struct sm_slot, sampled) == SM_ASM_SLOT_SAMPLED);
static_assert(offsetof(struct sm_slot, sampled_ticks) == SM_ASM_SLOT_SAMPLED_TICKS);
static_assert(offsetof(struct sm_slot, samples_cut) == SM_ASM_SLOT_SAMPLES_CUT);
static_assert(offsetof(struct sm_slot, next_sample) == SM_ASM_SLOT_NEXT_SAMPLE);
static_assert(SM_SAMPLE_PERIOD == SM_ASM_SAMPLE_PERIOD && SM_SAMPLE_MAX == SM_ASM_SAMPLE_MAX);
static_assert(SM_SLOT_STACK_TOP == SM_SLOT_STACK_OFFSET + SM_SLOT_STACK_SIZE);
#endif

#endif
