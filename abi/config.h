/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the host tells the payload: written by the host before the compartment is
 * armed, read-only in the shadow view. The struct offsets come from the guest's
 * own BTF; the payload treats every guest value as hostile all the same.
 */
#ifndef SHADOWMONITOR_ABI_CONFIG_H
#define SHADOWMONITOR_ABI_CONFIG_H

#include "events.h"
#include "layout.h"

#define SM_CONFIG_MAGIC 0x31666e6f634d53ull /* "SMconf1" */

enum sm_full_mode {
    SM_FULL_DROP = 0,
    SM_FULL_BLOCK = 1,
};

/* RBX of the VMCALL that block mode makes; RAX on return: 0 try again, 1 give up (draining). */
#define SM_CALL_RING_FULL 1
/* Of the one of a hook with SM_HOOK_HOLD; RAX on return is of no meaning. */
#define SM_CALL_HOLD 2

/* [start, start + size) of guest-virtual memory that is mapped as long as the guest lives. */
struct sm_window {
    uint64_t start;
    uint64_t size;
};
#define SM_MAX_WINDOWS 8 /* direct map of each RAM range, kernel image */

/* Byte offsets in the guest's structs. */
struct sm_offsets {
    uint32_t current_task; /* from GS base, of the task pointer */
    uint32_t task_pid, task_tgid, task_real_parent, task_cred, task_comm, task_state;
    uint32_t cred_uid;
};

/* How a vector leads to the handler of a device. vector_irq 0: it is not known, nothing is read. */
struct sm_irq_offsets {
    uint32_t vector_irq; /* from GS base, of an array of pointers to irq_desc, by vector */
    uint32_t desc_irq, desc_action, action_handler;
};

/*
 * What the payload would have to calculate for every event, calculated once by the host from the
 * rest of struct sm_config: sm_derive(). An address a is in the first window, with a task behind
 * it, if a - start < limit; a field of the task is then read at (a - start) + its number here,
 * which is start + its offset. Where one field is wanted of what a pointer leads to, the address of
 * that field is looked at in the same way: the number is then the field's offset less start.
 * limit is 0 where that does not hold, and then the payload takes the way that needs nothing of
 * this.
 */
struct sm_derived {
    uint64_t start;
    uint64_t limit;
    /* Of one field each, less start: from GS base, a task and a cred. */
    uint64_t current_task, parent_tgid, cred_uid;
    uint64_t task_pid; /* and task_tgid right behind it */
    uint64_t task_tgid, task_real_parent, task_cred, task_comm, task_state;
    uint64_t ring_mask;        /* ring_size - 1 */
    uint64_t hook_offset_mask; /* hook_mask, in bytes of the table */
    uint64_t slot_offset_mask; /* slots - 1, in bytes of the slots' area */
};

struct sm_config {
    uint64_t magic;
    uint32_t version; /* SM_ABI_VERSION */
    uint32_t full_mode;
    uint32_t slots;      /* power of two, at most SM_MAX_SLOTS */
    uint32_t ring_size;  /* data bytes, power of two */
    uint32_t hook_mask;  /* hook table has hook_mask + 1 entries */
    uint32_t task_size;  /* bytes of task_struct that the offsets reach into */
    uint64_t direct_map; /* guest-virtual address of guest-physical 0, for page walks */
    uint32_t la57;       /* 1: five levels */
    uint32_t nr_windows;
    struct sm_window windows[SM_MAX_WINDOWS];
    struct sm_offsets offsets;
    uint64_t idt20_handler; /* the guest's own handler of vector 20, 0 if it had none */
    uint32_t hook_capacity; /* hook ids are below this; at most SM_MAX_HOOKS */
    uint32_t pad;
    struct sm_derived derived;
    struct sm_irq_offsets irq;
    uint64_t reserved[4];
};

/*
 * One hook. Hash table: sm_hook_index(), then linear probing; rip 0 ends a probe. rip is the
 * address of return that the gate finds: site + 2 of an INT 20, site + 5 of a CALL.
 *
 * The host changes the table while the payload reads it. It writes rip last (release) and so
 * publishes the entry; to remove it, it sets rip to SM_HOOK_REMOVED, which a probe passes over
 * and which is no hook's address. The rest of a removed entry stays as it is until nobody can
 * be reading it any more: until every slot has been seen idle, or two claims on. An entry that is
 * free or can be used again has type and flags 0.
 */
#define SM_HOOK_HASH 0x9e3779b1u
#define SM_HOOK_HASH_SHIFT 16
#define SM_HOOK_REMOVED 1

enum sm_hook_flags {
    SM_HOOK_COMPAT = 1u << 0,   /* system-call hook of the 32-bit entries */
    SM_HOOK_NR_IN_AX = 1u << 1, /* with COMPAT: the number is still in ax, orig_ax is not set yet */
    SM_HOOK_LIMITED = 1u << 2,  /* there is a struct sm_limit for it */
    SM_HOOK_CALL = 1u << 3,     /* a CALL of the gate, which displaces a NOP: no code to resume at */
    SM_HOOK_IRQ_LINE = 1u << 4, /* interrupt hook of many vectors: the entry's vector is in si */
    SM_HOOK_HOLD = 1u << 5,     /* records nothing: the guest goes on when the host has answered */
};

/* Of an interrupt hook of one vector, it is in the upper half of flags. */
#define SM_HOOK_VECTOR_SHIFT 8

struct sm_hook {
    uint64_t rip;
    uint32_t id;
    uint16_t type;  /* enum sm_event_type that it makes */
    uint16_t flags; /* enum sm_hook_flags */
    uint64_t resume_if1; /* displaced code to continue at; it ends in sti; jmp */
    uint64_t resume_if0; /* the same for a site entered with interrupts off */
};

static inline uint32_t sm_hook_index(uint64_t rip, uint32_t hook_mask)
{
    return ((uint32_t)rip * SM_HOOK_HASH) >> SM_HOOK_HASH_SHIFT & hook_mask;
}

/*
 * At most so many events of one hook per window of time, of all vCPUs together; what comes above
 * is counted and not recorded. Windows are numbered: tsc * windows_per_tick / 2^64.
 */
struct sm_limit {
    uint64_t state;            /* of the payload: number of the window << 24 | events in it */
    uint64_t windows_per_tick; /* 2^64 / ticks of a window */
    uint32_t events;           /* at most SM_LIMIT_MAX_EVENTS; the host may change it at any time */
    uint32_t pad[3];
};
#define SM_LIMIT_COUNT_BITS 24
#define SM_LIMIT_MAX_EVENTS 0xffffff

/*
 * What became of the entries by a hook. The counters of a slot are a uint64_t for each hook id for
 * each of these: counters[kind * hook_capacity + id]. Who holds the slot is the only writer; the
 * host adds up those of all slots.
 */
enum sm_counter {
    SM_COUNTER_RECORDED = 0,
    SM_COUNTER_LOST = 1,    /* the ring had no room */
    SM_COUNTER_LIMITED = 2, /* above the hook's limit */
    SM_COUNTERS = 3
};

SM_STATIC_ASSERT(sizeof(struct sm_hook) == 32);
SM_STATIC_ASSERT(offsetof(struct sm_hook, flags) == offsetof(struct sm_hook, type) + 2);
SM_STATIC_ASSERT(sizeof(struct sm_derived) == 112);
SM_STATIC_ASSERT(sizeof(struct sm_limit) == 32);
SM_STATIC_ASSERT(2 * SM_MAX_HOOKS * sizeof(struct sm_hook) == SM_HOOKS_MAX_SIZE);
SM_STATIC_ASSERT(SM_MAX_HOOKS * sizeof(struct sm_limit) == SM_LIMITS_MAX_SIZE);
SM_STATIC_ASSERT(SM_MAX_HOOKS * SM_DISPLACED_PER_HOOK == SM_DISPLACED_MAX_SIZE);
SM_STATIC_ASSERT(SM_RING_DATA_OFFSET + SM_RING_MAX_DATA <= SM_RING_COUNTERS_OFFSET);
SM_STATIC_ASSERT(SM_RING_COUNTERS_OFFSET + SM_COUNTERS * SM_MAX_HOOKS * 8 < SM_RING_STRIDE);
SM_STATIC_ASSERT(sizeof(struct sm_offsets) == 32);
SM_STATIC_ASSERT(sizeof(struct sm_irq_offsets) == 16);
SM_STATIC_ASSERT(SM_HOOK_HOLD < 1u << SM_HOOK_VECTOR_SHIFT);
SM_STATIC_ASSERT(sizeof(struct sm_config) <= SM_PAGE_SIZE);
SM_STATIC_ASSERT(offsetof(struct sm_config, windows) == 48);

/*
 * The period is odd, so that of events that alternate both are sampled. Between claim and release
 * there are 100 to 400 ticks in the lab, and of the 1500 or so cycles of a whole event on hardware
 * (delivery of the interrupt, IRET and two VMFUNCs are most of it) some hundreds; an exit adds at
 * least 900 ticks in the lab and 1500 on hardware. 1000 is below what has an exit in it, and well
 * above what has none. What is slower all the same shows as samples_cut, not as a wrong mean.
 */
#define SM_SAMPLE_PERIOD 63
#define SM_SAMPLE_MAX 1000

/* First page of a slot. */
struct sm_slot {
    uint32_t busy;      /* 1 while claimed */
    uint32_t index;     /* written by the host */
    uint64_t guest_rsp; /* of the main view, at the gate */
    uint64_t tsc;       /* taken right after the claim */
    uint64_t ring;      /* where the slot's ring is; written by the host */
    uint64_t claims;    /* entries so far */
    uint64_t unknown;   /* entries from no hook */
    uint32_t aux;       /* TSC_AUX; written only by what few events need */
    uint32_t next_sample; /* claims before the next sample; the host writes the first value */
    /*
     * TSC from tsc to right before the release, of about one of SM_SAMPLE_PERIOD claims. A
     * sample of SM_SAMPLE_MAX and more was cut in two by the host, and is only counted.
     */
    uint64_t sampled;
    uint64_t sampled_ticks; /* of all of these together */
    uint64_t samples_cut;
    uint64_t pad[502];
};
SM_STATIC_ASSERT(sizeof(struct sm_slot) == SM_PAGE_SIZE);

/* Calculates derived from the rest, which is complete. */
static inline void sm_derive(struct sm_config *config)
{
    const struct sm_offsets *offsets = &config->offsets;
    const struct sm_window *window = &config->windows[0];
    struct sm_derived *d = &config->derived;
    d->start = window->start;
    d->limit = config->nr_windows != 0 && window->size >= config->task_size &&
                       offsets->task_tgid == offsets->task_pid + 4 ?
                   window->size - config->task_size + 1 :
                   0;
    d->current_task = offsets->current_task - window->start;
    d->parent_tgid = offsets->task_tgid - window->start;
    d->cred_uid = offsets->cred_uid - window->start;
    d->task_pid = window->start + offsets->task_pid;
    d->task_tgid = window->start + offsets->task_tgid;
    d->task_real_parent = window->start + offsets->task_real_parent;
    d->task_cred = window->start + offsets->task_cred;
    d->task_comm = window->start + offsets->task_comm;
    d->task_state = window->start + offsets->task_state;
    d->ring_mask = config->ring_size - 1;
    d->hook_offset_mask = config->hook_mask * (uint32_t)sizeof(struct sm_hook);
    d->slot_offset_mask = (config->slots - 1) * SM_SLOT_STRIDE;
}

#endif
