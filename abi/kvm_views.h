/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * EPT views: what the KVM extension and its owner process promise each other.
 *
 * A views fd is made by KVM_VIEWS_CREATE on /dev/kvm from the fd of a VM, which
 * need not belong to the caller's address space. It holds no intrusion until
 * KVM_VIEWS_ENABLE. Its life:
 *
 *   CREATE -> (MEM, GET_*)* -> SET_REGION -> mmap, PROTECT -> ENABLE
 *          -> (PATCH, QUIESCE, PROTECT, read, poll)* -> DISABLE or close
 *
 * DISABLE, close and the death of the owner do the same: hook bytes go back
 * first, every vCPU leaves the compartment for good, then the remaining patches go back
 * and the views go away. DISABLE waits for that (interruptibly); close starts it.
 *
 * All addresses and lengths are bytes unless a name says pages (4 KiB each).
 * Every reserved field must be zero. Errors are -errno as usual; the ones that
 * need a word are given at the ioctl.
 */
#ifndef SHADOWMONITOR_ABI_KVM_VIEWS_H
#define SHADOWMONITOR_ABI_KVM_VIEWS_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KVM_VIEWS_API_VERSION 4

#define KVM_VIEWS_MAIN 0   /* EPTP list index of the view the guest runs in */
#define KVM_VIEWS_SHADOW 1 /* EPTP list index of the monitor's view */
#define KVM_VIEWS_COUNT 2

#define KVM_VIEWS_R 1
#define KVM_VIEWS_W 2 /* needs R */
#define KVM_VIEWS_X 4

#define KVM_VIEWS_MAX_REGION_PAGES 65536u
#define KVM_VIEWS_MAX_PATCH_LEN 16u
#define KVM_VIEWS_MAX_PATCHES 4096u   /* entries per KVM_VIEWS_PATCH */

/* What a CPU and a kernel must have; bits of kvm_views_probe. */
#define KVM_VIEWS_HW_EPT (1u << 0)
#define KVM_VIEWS_HW_TDP_MMU (1u << 1)
#define KVM_VIEWS_HW_EPTP_SWITCHING (1u << 2)
#define KVM_VIEWS_HW_EXEC_ONLY (1u << 3)
#define KVM_VIEWS_HW_VE (1u << 4)     /* optional: needed only for F_VE */
#define KVM_VIEWS_HW_VPID (1u << 5)   /* optional */
#define KVM_VIEWS_HW_REQUIRED                                                                      \
    (KVM_VIEWS_HW_EPT | KVM_VIEWS_HW_TDP_MMU | KVM_VIEWS_HW_EPTP_SWITCHING | KVM_VIEWS_HW_EXEC_ONLY)

/* ioctl on /dev/kvm, no VM needed. */
struct kvm_views_probe {
    __u32 version;  /* out: KVM_VIEWS_API_VERSION of the module */
    __u32 hardware; /* out: KVM_VIEWS_HW_* that are there */
    __u64 reserved[3];
};

/*
 * ioctl on /dev/kvm; returns the views fd (O_CLOEXEC).
 * EBADF or EINVAL: vm_fd is not a VM. EEXIST: the VM has views already.
 * EOPNOTSUPP: a piece of hardware is missing (the log names it), or the VM is
 * confidential, or a vCPU is in VMX operation (nested virtualization).
 */
struct kvm_views_create {
    __u32 version; /* in: KVM_VIEWS_API_VERSION, else EPROTO */
    __u32 flags;   /* in: 0 */
    __s32 vm_fd;   /* in */
    __u32 pad;
    __u64 reserved[4];
};

#define KVM_VIEWS_STATE_IDLE 0     /* created, no intrusion */
#define KVM_VIEWS_STATE_ENABLED 1
#define KVM_VIEWS_STATE_DRAINING 2 /* DISABLE or close under way */

struct kvm_views_info {
    __u32 state;
    __u32 nr_vcpus;
    __u32 phys_bits;  /* physical-address bits that EPT can translate for this VM */
    __u32 nr_slots;
    __u64 region_gpa; /* 0 until SET_REGION */
    __u32 region_pages;
    __u32 pad;
    __u64 ram_end;    /* first gpa above every memslot */
    __u64 reserved[4];
};

#define KVM_VIEWS_SLOT_READONLY 1u
struct kvm_views_slot {
    __u64 gpa;
    __u64 size;
    __u64 hva;   /* in the VMM's address space */
    __u32 flags;
    __u32 pad;
};

/* Memslots of address space 0 in the order of gpa; nr returns how many there are. */
struct kvm_views_slots {
    __u64 slots; /* in: user pointer to struct kvm_views_slot[nr] */
    __u32 nr;    /* in: room; out: number in all (E2BIG if more than room) */
    __u32 pad;
};

/* Copies guest-physical memory to the owner. ENXIO: part of it is not RAM (nothing copied past it). */
struct kvm_views_mem {
    __u64 gpa;
    __u64 buf; /* user pointer */
    __u64 len; /* at most 1 MiB */
    __u64 done; /* out: bytes copied */
};

#define KVM_VIEWS_VCPU_RDTSCP (1u << 0)   /* guest CPUID has RDTSCP */
#define KVM_VIEWS_VCPU_VMXON (1u << 1)
#define KVM_VIEWS_VCPU_NEVER_RAN (1u << 2) /* waits for its start-up IPI */

/*
 * Register state of one vCPU, taken by the vCPU itself or while it cannot run.
 * ENOENT: no such index. EINTR: a signal came while waiting for the vCPU.
 */
struct kvm_views_vcpu {
    __u32 index; /* in: 0..nr_vcpus-1 */
    __u32 vcpu_id;
    __u32 flags; /* KVM_VIEWS_VCPU_* */
    __u32 view;
    __u64 rip, rsp, rflags;
    __u64 cr0, cr3, cr4, efer;
    __u64 idt_base, gdt_base, gs_base, kernel_gs_base, fs_base;
    __u64 lstar;
    __u32 idt_limit, gdt_limit;
    __u32 cpl;
    __u32 cs_long; /* CS.L */
    __u64 exits;   /* VM exits of this vCPU so far */
    /* One instant three ways, for turning a guest TSC into wall-clock time. */
    __u64 guest_tsc;
    __u64 realtime_ns; /* CLOCK_REALTIME of the host */
    __u32 tsc_khz;     /* guest TSC frequency */
    __u32 pad;
    __u64 reserved[8];
};

/*
 * Places the hidden region. Once per fd, before ENABLE. EEXIST: already placed.
 * EINVAL: not page-aligned, too big, beyond phys_bits. EADDRINUSE: overlaps a memslot.
 * All pages start zeroed, absent in the main view and absent in the shadow view.
 * mmap of the fd at offset 0 gives its pages (MAP_SHARED only).
 */
struct kvm_views_region {
    __u64 gpa;
    __u32 pages;
    __u32 pad;
};

/* What happens to an access that an override forbids; it is always reported. */
#define KVM_VIEWS_ON_DENY 0   /* the instruction completes without the store */
#define KVM_VIEWS_ON_ALLOW 1  /* this access is let through */
#define KVM_VIEWS_ON_INJECT 2 /* #GP(0) */

#define KVM_VIEWS_PROTECT_CLEAR 1u /* back to the default of the view; rights and on are 0 */

/*
 * Rights of pages in one view. Region pages: any of R/W/X, or 0 for absent (the
 * page then looks like a hole: accesses go to the VMM as MMIO). RAM: main view
 * only, default RWX; a fetch that is forbidden is never allowed once: with
 * ON_DENY or ON_ALLOW it injects #GP(0) all the same. RAM in the shadow view is
 * always R.  A range is either wholly in the region or wholly outside.
 */
struct kvm_views_protect {
    __u64 gpa;
    __u32 pages;
    __u32 flags;
    __u8 view;
    __u8 rights;
    __u8 on;
    __u8 pad[5];
};

#define KVM_VIEWS_ENABLE_VE 1u /* fetches of RAM in the shadow view raise #VE instead of exiting */

/*
 * Arms every vCPU. [gate_gva, gate_gva + gate_len) is the guest-virtual range of
 * the compartment: a vCPU whose RIP is inside it, or whose view is not the main
 * view, is not interrupted by a drain.
 * Each vCPU finds the pages of the region mapped in both views when it next enters
 * the guest: using them makes no exit, unless their rights are changed later.
 * With ENABLE_VE, ve_page is the region page of the #VE information of vCPU id 0,
 * the next one that of vCPU id 1 and so on.
 */
struct kvm_views_enable {
    __u64 gate_gva;
    __u64 gate_len;
    __u32 flags;
    __u32 ve_page;
    __u64 reserved[4];
};

#define KVM_VIEWS_PATCH_HOOK 1u   /* restored before the drain; all others after it */
#define KVM_VIEWS_PATCH_REVERT 2u /* expect is the patch in place; what it replaced goes back */
#define KVM_VIEWS_PATCH_HIDE 4u   /* the guest reads what the patch replaced */
#define KVM_VIEWS_PATCH_CALL 8u   /* a hook that is a CALL; only with HOOK */

/*
 * One write to guest RAM; must not cross a page.
 *
 * A page with a patch that is hidden is execute-only in the main view. The guest's
 * reads and writes there are emulated. Before a write that touches a byte of a
 * hidden patch the patch goes: as with REVERT, with every vCPU stopped, and with
 * EVENT_OVERWRITTEN for the owner, whose next REVERT of it would be ESTALE. So a
 * hook should be as long as the instructions that it displaces, with the tail of
 * the last one unchanged: then a displaced copy is never out of date unnoticed.
 * What the emulator cannot do is let through, and reported as EVENT_VIOLATION: the
 * page can be read for some milliseconds, or all of its hidden patches go before a
 * write. PROTECT of such a page still says what is forbidden.
 *
 * A CALL is delivered with the guest's IF: an interrupt may come while the first
 * instructions of the gate run, and returns there later, while RIP is elsewhere. So
 * once a patch with PATCH_CALL has gone, by whatever way, QUIESCE and the end of the
 * views wait for more: that each vCPU has been seen outside of the compartment and
 * in user mode, halted, or reset. A vCPU that its VMM has paused in the kernel is
 * waited for until it runs again. With MWAIT left to the guest its idle loop looks
 * like any other kernel code, only user mode counts. If the guest's kernel schedules
 * on the way out of an interrupt of kernel code, a task can take such a return away
 * with it, and nobody can wait for that: put no CALLs there.
 */
struct kvm_views_patch {
    __u64 gpa;
    __u32 len;   /* 1..KVM_VIEWS_MAX_PATCH_LEN */
    __u32 flags;
    __u8 expect[KVM_VIEWS_MAX_PATCH_LEN]; /* what must be there now */
    __u8 bytes[KVM_VIEWS_MAX_PATCH_LEN];  /* what to write (ignored for REVERT) */
};

/*
 * Applies all patches with every vCPU stopped, or none. ESTALE: an expectation
 * failed, failed_index names it. The undo list remembers the old bytes; at the end
 * they go back where the guest has not changed ours in the meantime.
 */
struct kvm_views_patches {
    __u64 patches; /* user pointer to struct kvm_views_patch[nr] */
    __u32 nr;
    __u32 failed_index; /* out */
    __u64 pause_tsc;    /* out: host TSC ticks that the vCPUs stood still */
    __u32 inside;       /* out: vCPUs that were inside meanwhile, or may return there */
    __u32 pad;
};

/* A vCPU parked by VMCALL in the shadow view goes on (ENOENT: not parked). */
struct kvm_views_resume {
    __u32 vcpu_id;
    __u32 pad;
};

struct kvm_views_stats {
    __u64 exits;          /* of all vCPUs since CREATE */
    __u64 switches;       /* view changes noticed at exits */
    __u64 violations;
    __u64 bad_vmfunc;
    __u64 calls;          /* VMCALLs in the shadow view */
    __u64 region_faults;  /* EPT violations resolved by mapping a region page */
    __u64 events_lost;    /* not queued, the queue was full */
    __u64 undo_entries;
    __u64 undo_conflicts; /* entries left alone because the guest had changed the bytes */
    __u64 ve_injected;    /* #VE delivered by software */
    __u64 hidden_reads;   /* exits for the guest's reads of pages with hidden patches */
    __u64 hidden_writes;
    __u64 exposed;        /* of these, reads that could not be emulated */
    __u64 overwritten;    /* hidden patches that went because the guest wrote there */
    __u64 reserved[2];
};

/*
 * read(2) gives whole records; poll says POLLIN, and POLLHUP when the VM is gone.
 * arg is for CALL the guest's RBX, for BAD_VMFUNC EAX | ECX << 32, for ESCAPE RSP,
 * for DEBUG the DR6 bits of the exit, for SLOT its bytes, for OVERWRITTEN the first
 * eight bytes that the guest writes, at gva (0 if not known), for RESET its
 * KVM_VIEWS_RESET_* bits, else 0.
 *
 * RESET: rip and cr3 are those from before, as is view. If that is the shadow view,
 * what the vCPU did there has ended in the middle. It goes on in the main view, with
 * its views armed. A VMM that resets the machine reports one for each vCPU that has
 * views, without RESET_INIT. With RESET_INIT the other vCPUs and memory are as they
 * were: a guest takes a CPU down or up that way, or starts a new kernel in place of
 * its own. The boot vCPU goes on in the firmware after INIT, another one waits for its
 * start-up IPI.
 */
#define KVM_VIEWS_EVENT_VIOLATION 1  /* an override or a view's default forbade an access */
#define KVM_VIEWS_EVENT_BAD_VMFUNC 2 /* VMFUNC with a bad leaf or index; #UD was injected */
#define KVM_VIEWS_EVENT_ESCAPE 3     /* fault in the shadow view; expelled to the main view, registers 0 */
#define KVM_VIEWS_EVENT_CALL 4       /* VMCALL in the shadow view; parked until KVM_VIEWS_RESUME */
#define KVM_VIEWS_EVENT_NESTED 5     /* VMXON refused with #UD */
#define KVM_VIEWS_EVENT_RESET 6      /* a vCPU was reset: by the VMM, or by INIT (see arg) */
#define KVM_VIEWS_EVENT_DEBUG 7      /* #DB in the shadow view, not delivered: a breakpoint of the guest */
#define KVM_VIEWS_EVENT_SLOT 8       /* the VMM put a memslot over the region, whose pages stay */
#define KVM_VIEWS_EVENT_OVERWRITTEN 9 /* the hidden patch at gpa is no more, the guest writes there */

#define KVM_VIEWS_RESET_INIT (1u << 0) /* INIT was sent to this vCPU alone */
#define KVM_VIEWS_RESET_BOOT (1u << 1) /* it is the one that boots the machine */

struct kvm_views_event {
    __u32 type;
    __u32 vcpu_id;  /* the rest of the record is about this vCPU; SLOT: ~0, of none */
    __u32 view;
    __u32 access;   /* KVM_VIEWS_R/W/X that was tried */
    __u64 gpa, gva; /* SLOT: gpa and 0 */
    __u64 rip, cr3;
    __u64 arg;      /* see below */
    __u64 tsc;      /* guest TSC */
};

/*
 * What a module in the guest has offered with the hypercall of abi/guest_offer.h: the
 * guest-virtual range [gva, gva + size) and where the page-table entry that leads to it
 * is. KVM has only seen that these are numbers that can be: it is the guest's word, and
 * may be another one at the next call. While the vCPUs are armed it does not change but
 * by a reset.
 */
struct kvm_views_offer {
    __u32 version; /* SM_OFFER_VERSION; 0: there is no offer, all else is 0 */
    __u32 pad;
    __u64 gva;
    __u64 size;
    __u64 entry_gpa;
    __u64 reserved[4];
};

#define KVM_VIEWS_IO 0xAE

#define KVM_VIEWS_PROBE _IOR(KVM_VIEWS_IO, 0xf0, struct kvm_views_probe)
#define KVM_VIEWS_CREATE _IOW(KVM_VIEWS_IO, 0xf1, struct kvm_views_create)

#define KVM_VIEWS_GET_INFO _IOR(KVM_VIEWS_IO, 0xf2, struct kvm_views_info)
#define KVM_VIEWS_GET_SLOTS _IOWR(KVM_VIEWS_IO, 0xf3, struct kvm_views_slots)
#define KVM_VIEWS_READ_MEM _IOWR(KVM_VIEWS_IO, 0xf4, struct kvm_views_mem)
#define KVM_VIEWS_GET_VCPU _IOWR(KVM_VIEWS_IO, 0xf5, struct kvm_views_vcpu)
#define KVM_VIEWS_SET_REGION _IOW(KVM_VIEWS_IO, 0xf6, struct kvm_views_region)
#define KVM_VIEWS_PROTECT _IOW(KVM_VIEWS_IO, 0xf7, struct kvm_views_protect)
#define KVM_VIEWS_ENABLE _IOW(KVM_VIEWS_IO, 0xf8, struct kvm_views_enable)
#define KVM_VIEWS_DISABLE _IO(KVM_VIEWS_IO, 0xf9)
#define KVM_VIEWS_PATCH _IOWR(KVM_VIEWS_IO, 0xfa, struct kvm_views_patches)
#define KVM_VIEWS_RESUME _IOW(KVM_VIEWS_IO, 0xfb, struct kvm_views_resume)
#define KVM_VIEWS_GET_STATS _IOR(KVM_VIEWS_IO, 0xfc, struct kvm_views_stats)

/*
 * Waits until every vCPU has been outside the compartment at least once since the
 * last KVM_VIEWS_PATCH; nothing to wait for if that one's `inside` is 0. What a
 * reverted hook led to (its entry in a table, its displaced code) can be used
 * again then. Inside is a vCPU whose view is not the main view, whose RIP is in the
 * gate's range, that is about to take a software interrupt, or that is in an NMI
 * handler. Only such vCPUs are made to exit, and none stands still. What the guest
 * itself keeps on a stack is not looked at: a displaced instruction that faults is
 * returned to when the guest's handler is done. After the end of a CALL (PATCH_CALL)
 * the frames of interrupts do count, in the way described there.
 * EAGAIN: a vCPU stays inside, because its VMM keeps it paused, because it waits
 * for KVM_VIEWS_RESUME, or because the guest keeps it there; nobody waits longer
 * than about a second. EINTR: a signal came.
 *
 * With KVM_VIEWS_QUIESCE_LOOK as the ioctl's argument, in place of 0, nobody waits:
 * EAGAIN says that a vCPU may still be inside, which has been made to exit, so that
 * a later call can find it outside.
 */
#define KVM_VIEWS_QUIESCE_LOOK 1
#define KVM_VIEWS_QUIESCE _IO(KVM_VIEWS_IO, 0xfd)

#define KVM_VIEWS_GET_OFFER _IOR(KVM_VIEWS_IO, 0xfe, struct kvm_views_offer)

#endif
