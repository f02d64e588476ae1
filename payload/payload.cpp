/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the gates and the loader call by name. The logic is in the headers, so that tests run it. */
#include "payload/handler.h"
#include "payload/machine.h"

using namespace shadowmon::payload;

namespace {

const Machine machine;

} // namespace

extern "C" {

/* Names of symbols.h. */
[[gnu::used]] extern const u32 sm_payload_abi_version = SM_ABI_VERSION;
extern const sm_hook* const sm_hook_table_at = sm_hook_table;
u64 sm_payload_no_slot = 0;
/* Hits of the interrupt hooks of each CPU. */
u64 sm_irq_counts[SM_MAX_VCPUS] = {};

/*
 * rsi, rcx and r8 by the gates, which put nothing in rdi and rdx; trusted stack, interrupts off,
 * flags clear. Each has a page of its own: what an event runs is in as few pages and lines as can
 * be.
 */
[[gnu::flatten, gnu::section(".text.int")]] u64 sm_payload_event(u64, sm_slot* slot, u64, u32 aux,
                                                                 u64 tsc) {
    return handle_event<IntEntry>(machine, *slot, tsc, aux);
}

[[gnu::flatten, gnu::section(".text.call")]] void sm_payload_call_event(u64, sm_slot* slot, u64,
                                                                        u32 aux, u64 tsc) {
    handle_event<CallEntry>(machine, *slot, tsc, aux);
}
}
