/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things lie in the compartment: guest-virtual addresses, fixed, used by
 * the host (which writes the page tables), the payload's linker script and its
 * assembly. Where the pages behind them lie in guest-physical memory is the
 * host's random choice.
 *
 * The compartment is one PUD entry (1 GiB) of the hole that Linux leaves below
 * its kernel text, so every address is within rel32 reach of the kernel text.
 * What is not named below is not mapped; there is an unmapped page on both sides
 * of every stack.
 *
 *   area            main view   shadow view
 *   page tables     r--         r--          (not mapped here; in the region only)
 *   gate            --x         r-x
 *   displaced       --x         ---
 *   payload text    ---         r-x
 *   tables          ---         r--          (config, hook table)
 *   #VE pages       ---         rw-
 *   payload data    ---         rw-
 *   slots           ---         rw-          (slot page, stack)
 *   rings           ---         rw-
 */
#ifndef SHADOWMONITOR_ABI_LAYOUT_H
#define SHADOWMONITOR_ABI_LAYOUT_H

#define SM_PAGE_SIZE 0x1000

#define SM_COMPARTMENT_GVA 0xffffffff40000000
#define SM_COMPARTMENT_SIZE 0x40000000

/* Offsets from SM_COMPARTMENT_GVA. */
#define SM_GATE_OFFSET 0x1000 /* one page */
#define SM_DISPLACED_OFFSET 0x2000
#define SM_DISPLACED_MAX_SIZE 0x1e000
#define SM_TEXT_OFFSET 0x20000
#define SM_TEXT_MAX_SIZE 0x20000
#define SM_RODATA_OFFSET 0x40000
#define SM_RODATA_MAX_SIZE 0x10000
#define SM_CONFIG_OFFSET 0x50000 /* struct sm_config, one page */
#define SM_HOOKS_OFFSET 0x51000  /* struct sm_hook[], open-addressing hash table */
#define SM_HOOKS_MAX_SIZE 0xf000
#define SM_VE_OFFSET 0x60000     /* one page per vCPU id */
#define SM_MAX_VCPUS 64
#define SM_DATA_OFFSET 0x100000
#define SM_DATA_MAX_SIZE 0x10000
#define SM_SLOTS_OFFSET 0x200000
#define SM_RINGS_OFFSET 0x10000000

/*
 * A slot: one page with struct sm_slot, an unmapped page, the stack. Slots are
 * SM_SLOT_STRIDE apart, so the page before the next slot page is unmapped too.
 */
#define SM_SLOT_STRIDE_SHIFT 16
#define SM_SLOT_STRIDE 0x10000
#define SM_SLOT_STACK_OFFSET 0x2000
#define SM_SLOT_STACK_SIZE 0x4000
#define SM_SLOT_STACK_TOP 0x6000
#define SM_MAX_SLOTS 64

/* A ring: one page with struct sm_ring, then its data (a power of two bytes). */
#define SM_RING_STRIDE 0x800000
#define SM_RING_DATA_OFFSET 0x1000
#define SM_RING_MAX_DATA 0x400000

#endif
