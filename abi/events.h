/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events and the rings that carry them from the shadow view to the host process.
 *
 * One ring per slot. Who holds the slot is the ring's only producer; the host is
 * its only consumer. Both are trusted, the guest sees neither.
 *
 *   producer (payload)                          consumer (host)
 *   reads tail (acquire)                        reads head (acquire)
 *   writes the record at head & (size - 1)      reads records in [tail, head)
 *   adds its size to head (release)             sets tail = head it has read (release)
 *
 * head and tail count bytes ever produced and consumed. A record never wraps: one
 * that would is preceded by a SM_EVENT_PAD record up to the end of the data. Every
 * record is a multiple of 8 bytes and starts with type and size.
 *
 * Loss: in drop mode an event without room is counted in lost[type]; as soon as
 * there is room again a SM_EVENT_LOST record says how many since the last one.
 * In block mode the payload calls the host (VMCALL) until there is room.
 *
 * Order: the time stamp is taken after the slot was claimed (busy is 1), so events
 * of a ring are in time order, and a slot seen idle at some moment will only
 * produce events later than that moment.
 *
 * SM_ABI_VERSION goes up with every change of a struct or a number here, in
 * layout.h or in config.h.
 */
#ifndef SHADOWMONITOR_ABI_EVENTS_H
#define SHADOWMONITOR_ABI_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#define SM_ABI_VERSION 8

enum sm_event_type {
    SM_EVENT_PAD = 0,
    SM_EVENT_LOST = 1,           /* body: struct sm_body_lost */
    SM_EVENT_SYSCALL_ENTER = 2,  /* body: struct sm_body_syscall_enter */
    SM_EVENT_SYSCALL_EXIT = 3,   /* body: struct sm_body_syscall_exit */
    SM_EVENT_SWITCH = 4,         /* body: struct sm_body_switch; the header's process is the previous one */
    SM_EVENT_UNKNOWN_HOOK = 5,   /* body: struct sm_body_unknown; the gate was entered from no hook */
    SM_EVENT_HOOK = 6,           /* body: struct sm_body_hook; a hook that the user named */
    SM_EVENT_IRQ_ENTER = 7,      /* body: struct sm_body_irq_enter; the header's process is interrupted */
    SM_EVENT_IRQ_EXIT = 8,       /* body: struct sm_body_irq_exit */
    SM_EVENT_HOOK_RETIRED = 15,  /* in no ring: the host's own, of a hook that the guest has ended */
    SM_EVENT_TYPES = 16          /* room for more */
};

enum sm_event_flags {
    SM_EVENT_COMPAT = 1u << 0,      /* 32-bit system call */
    SM_EVENT_NO_TASK = 1u << 1,     /* the task could not be read: pid to comm are 0 */
    SM_EVENT_NO_BODY = 1u << 2,     /* what the body is read from could not be read: it is 0 */
};

#define SM_COMM_SIZE 16

struct sm_event_header {
    uint16_t type;  /* enum sm_event_type */
    uint16_t flags; /* enum sm_event_flags */
    uint32_t size;  /* bytes, header and body */
    uint32_t hook;  /* id of the hook, as the host numbered it */
    uint32_t cpu;   /* TSC_AUX, as the guest states it: its low 12 bits are the number of the CPU */
    uint64_t seq;   /* of this ring, from 0, counts recorded and lost events */
    uint64_t tsc;   /* guest TSC */
    uint64_t task;  /* guest-virtual address of the task_struct */
    uint32_t tid;   /* task->pid */
    uint32_t pid;   /* task->tgid */
    uint32_t ppid;  /* task->real_parent->tgid */
    uint32_t uid;   /* task->cred->uid */
    uint64_t cr3;
    char comm[SM_COMM_SIZE]; /* not always NUL-terminated */
};

struct sm_body_syscall_enter {
    uint64_t nr;
    uint64_t args[6]; /* raw registers in the order of the system-call convention */
};

struct sm_body_syscall_exit {
    uint64_t nr;
    int64_t ret;
};

struct sm_body_switch {
    uint64_t next_task;
    uint32_t next_tid;
    uint32_t next_pid;
    uint64_t prev_state; /* task->__state at the switch */
    char next_comm[SM_COMM_SIZE];
};

struct sm_body_lost {
    uint64_t lost[SM_EVENT_TYPES]; /* since the last SM_EVENT_LOST of this ring, by type */
};

struct sm_body_unknown {
    uint64_t rip; /* return address of the frame that was found */
    uint64_t rsp;
};

/*
 * Registers at the hooked instruction, before it has run. rcx, rdx and rax waited on the guest's
 * stack: another vCPU may have changed them there, and then the guest goes on with what it changed.
 */
struct sm_body_hook {
    uint64_t args[6]; /* rdi, rsi, rdx, rcx, r8, r9: at a function's entry, its arguments */
    uint64_t ax;      /* behind a call, what it returned */
    uint64_t sp;
    uint64_t flags;
};

/*
 * nth counts the hits of a CPU's interrupt hooks, entries and exits, also those that found no
 * room: what is missing between two events of a CPU shows. CPUs are told apart by TSC_AUX modulo
 * SM_MAX_VCPUS. An exit belongs to the last entry of its CPU that is still open, if none is missing.
 */
#define SM_IRQ_UNKNOWN 0xffffffffu

struct sm_body_irq_enter {
    uint32_t vector;  /* SM_IRQ_UNKNOWN: the guest's register held no vector */
    uint32_t irq;     /* of a device: irq_desc->irq_data.irq; SM_IRQ_UNKNOWN if there is none */
    uint64_t handler; /* irq_desc->action->handler, the first of a line; 0 if there is none */
    uint64_t nth;
};

struct sm_body_irq_exit {
    uint32_t vector; /* SM_IRQ_UNKNOWN: that of the entry */
    uint32_t pad;
    uint64_t nth;
};

struct sm_event_syscall_enter {
    struct sm_event_header h;
    struct sm_body_syscall_enter b;
};
struct sm_event_syscall_exit {
    struct sm_event_header h;
    struct sm_body_syscall_exit b;
};
struct sm_event_switch {
    struct sm_event_header h;
    struct sm_body_switch b;
};

struct sm_event_hook {
    struct sm_event_header h;
    struct sm_body_hook b;
};

struct sm_event_irq_enter {
    struct sm_event_header h;
    struct sm_body_irq_enter b;
};
struct sm_event_irq_exit {
    struct sm_event_header h;
    struct sm_body_irq_exit b;
};

/* First page of a ring; the data follows at SM_RING_DATA_OFFSET. */
struct sm_ring {
    /* Written by the producer. */
    uint64_t head;
    uint64_t seq;                  /* of the next event */
    uint64_t last_tsc;             /* of the last event */
    uint64_t lost[SM_EVENT_TYPES]; /* in all */
    uint64_t recorded[SM_EVENT_TYPES];
    uint64_t pad0[256 - 3 - 2 * SM_EVENT_TYPES];
    /* Written by the consumer. */
    uint64_t tail;
    uint64_t pad1[255];
};

#ifdef __cplusplus
#define SM_STATIC_ASSERT(c) static_assert(c, #c)
#else
#define SM_STATIC_ASSERT(c) _Static_assert(c, #c)
#endif

SM_STATIC_ASSERT(sizeof(struct sm_event_header) == 80);
SM_STATIC_ASSERT(sizeof(struct sm_event_syscall_enter) == 136);
SM_STATIC_ASSERT(sizeof(struct sm_event_syscall_exit) == 96);
SM_STATIC_ASSERT(sizeof(struct sm_event_switch) == 120);
SM_STATIC_ASSERT(sizeof(struct sm_event_hook) == 152);
SM_STATIC_ASSERT(sizeof(struct sm_event_irq_enter) == 104);
SM_STATIC_ASSERT(sizeof(struct sm_event_irq_exit) == 96);
SM_STATIC_ASSERT(sizeof(struct sm_body_lost) % 8 == 0);
SM_STATIC_ASSERT(sizeof(struct sm_ring) == 4096);
SM_STATIC_ASSERT(offsetof(struct sm_ring, tail) == 2048);

#endif
