/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things lie in the compartment: guest-virtual addresses, fixed, used by
 * the host (which writes the page tables), the payload's linker script and its
 * assembly. Where the pages behind them lie in guest-physical memory is the
 * host's random choice.
 *
 * The compartment is one PUD entry (1 GiB) of the hole that Linux leaves below
 * its kernel text, so every address is within rel32 reach of the kernel text.
 * What the guest's code leads to, and what leads back to it, is at the end of it,
 * which modules, up to the end of their range, reach as well.
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
 *   limits          ---         rw-          (of hooks that have one)
 *   slots           ---         rw-          (slot page, stack)
 *   rings           ---         rw-
 *   counters        ---         rw-          (of hooks, one array per slot)
 */
#ifndef SHADOWMONITOR_ABI_LAYOUT_H
#define SHADOWMONITOR_ABI_LAYOUT_H

#define SM_PAGE_SIZE 0x1000

#define SM_COMPARTMENT_GVA 0xffffffff40000000
#define SM_COMPARTMENT_SIZE 0x40000000

/* Offsets from SM_COMPARTMENT_GVA. */
#define SM_TEXT_OFFSET 0x20000
#define SM_TEXT_MAX_SIZE 0x20000
#define SM_RODATA_OFFSET 0x40000
#define SM_RODATA_MAX_SIZE 0x10000
#define SM_CONFIG_OFFSET 0x50000 /* struct sm_config, one page */
#define SM_VE_OFFSET 0x60000     /* one page per vCPU id */
#define SM_MAX_VCPUS 64
#define SM_DATA_OFFSET 0xc0000
#define SM_DATA_MAX_SIZE 0x10000
#define SM_HOOKS_OFFSET 0x200000 /* struct sm_hook[], open-addressing hash table */
#define SM_HOOKS_MAX_SIZE 0x80000
#define SM_LIMITS_OFFSET 0x300000 /* struct sm_limit[], by hook id */
#define SM_LIMITS_MAX_SIZE 0x40000
#define SM_SLOTS_OFFSET 0x400000
#define SM_RINGS_OFFSET 0x10000000
#define SM_DISPLACED_OFFSET 0x3fe00000
#define SM_DISPLACED_MAX_SIZE 0x100000
#define SM_GATE_OFFSET 0x3fffe000 /* one page */

/*
 * Hooks of one compartment. Table, displaced code, limits and counters have room for as many
 * as the host chose when it laid the compartment out, at most this; hook ids are below that.
 */
#define SM_MAX_HOOKS 8192
#define SM_DISPLACED_PER_HOOK 128

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

/*
 * A ring: one page with struct sm_ring, then its data (a power of two bytes). The hook counters
 * of the slot lie at a fixed distance, so that who has the ring has them, too.
 */
#define SM_RING_STRIDE 0x800000
#define SM_RING_DATA_OFFSET 0x1000
#define SM_RING_MAX_DATA 0x400000
#define SM_RING_COUNTERS_OFFSET 0x500000

#endif
