/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * EPT views, between the files of this folder and vmx/views_vmx.c.
 *
 * Locks, outermost first: views->lock, kvm->lock, kvm->slots_lock, mmu_lock.
 * A vCPU takes none of the first three: it waits for whoever stops the world
 * (holding views->lock) with kvm->srcu dropped. views->undo_sem is taken inside
 * of views->lock, or by a vCPU inside of kvm->srcu, for whose readers nobody may
 * wait while holding it. views->snapshot_lock is taken outside of vcpu->mutex and
 * never together with views->lock, within which vcpu->mutex is at most tried.
 * views->premap_lock is a vCPU's, within
 * kvm->srcu and outside of mmu_lock; who holds it waits for nobody else.
 */
#ifndef __KVM_X86_VIEWS_INTERNAL_H
#define __KVM_X86_VIEWS_INTERNAL_H

#include <linux/kref.h>
#include <linux/kvm_host.h>
#include <linux/poll.h>
#include <linux/rwsem.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "views/views.h"

#undef pr_fmt
#define pr_fmt(fmt) "kvm: views: " fmt

/* Rights and answer of one page, as kept: KVM_VIEWS_R/W/X | KVM_VIEWS_ON_* << 4. */
#define VIEWS_RIGHTS_MASK	(KVM_VIEWS_R | KVM_VIEWS_W | KVM_VIEWS_X)
#define VIEWS_ON_SHIFT		4

#define VIEWS_NR_EVENTS		1024

/* The pages of a hidden region; owned by a file that its mappings hold, too. */
struct kvm_views_pages {
	u32 nr;
	struct page *page[];
};

/* The hidden region as the guest meets it. Readers hold kvm->srcu. */
struct kvm_views_area {
	gfn_t gfn;
	struct kvm_views_pages *pages;
	u8 *rights[KVM_VIEWS_COUNT];
	struct kvm_memory_slot slot;	/* never in memslots, satisfies the MMU */
};

/* One patch that is in place; keyed by gpa in views->undo. Entries never overlap. */
struct kvm_views_undo {
	u8 len;
	bool hook;
	bool hide;
	bool call;
	u8 old[KVM_VIEWS_MAX_PATCH_LEN];
	u8 new[KVM_VIEWS_MAX_PATCH_LEN];
};

/*
 * The views of a VM. Made by its first KVM_VIEWS_CREATE, kept until the VM and
 * the views fd are gone: kvm->arch.views never changes once it is set.
 */
struct kvm_views {
	struct kref ref;
	spinlock_t kvm_lock;		/* protects the next two against their end */
	struct kvm *kvm;		/* no reference is held through it */
	struct file *pages_file;	/* owns the pages of the region */

	struct mutex lock;		/* all that follows, but for the queue */
	wait_queue_head_t wait;		/* vCPUs that stand still, and who waits for vCPUs */
	bool attached;			/* there is a views fd */
	bool gone;			/* the VM is going or gone */
	u32 state;			/* KVM_VIEWS_STATE_* */

	bool stopped;			/* vCPUs have to stand still */
	bool armed;			/* changes only while stopped */
	bool ve;
	u32 ve_page;
	u64 gate_gva;
	u64 gate_len;

	struct kvm_views_area __rcu *area;
	struct xarray overrides;	/* gfn of RAM -> rights in the main view */

	struct rw_semaphore undo_sem;	/* the patches' bytes and entries change under it */
	struct xarray undo;		/* gpa -> struct kvm_views_undo */
	struct xarray hidden;		/* gfns that have hidden patches, see hide.c */
	struct work_struct retire;
	struct delayed_work rehide;
	bool hooks_restored;
	bool calls_gone;		/* to be told to kvm_views_mark_returns() */
	struct xarray dirty;		/* gfns of patches, until they are in a dirty ring */
	struct delayed_work drain;

	struct mutex snapshot_lock;	/* one GET_VCPU at a time */
	struct mutex premap_lock;	/* one vCPU at a time maps the region */

	spinlock_t events_lock;		/* the next three */
	struct kvm_views_event *events;
	u32 events_head;
	u32 events_tail;
	wait_queue_head_t events_wait;

	u64 exits_before;
	atomic64_t switches;
	atomic64_t violations;
	atomic64_t bad_vmfunc;
	atomic64_t calls;
	atomic64_t region_faults;
	atomic64_t events_lost;
	atomic64_t undo_entries;
	atomic64_t undo_conflicts;
	atomic64_t ve_injected;
	atomic64_t hidden_reads;
	atomic64_t hidden_writes;
	atomic64_t exposed;
	atomic64_t overwritten;
};

/* What the vendor module has to do; none on other CPUs. */
struct kvm_views_ops {
	struct module *owner;
	u32 (*hardware)(void);
	void (*update)(struct kvm_vcpu *vcpu);
	gva_t (*fault_gva)(struct kvm_vcpu *vcpu);
	bool (*inject_ve)(struct kvm_vcpu *vcpu, void *page);
	void (*forget_ve)(struct kvm_vcpu *vcpu);
	bool (*nested)(struct kvm_vcpu *vcpu);
};

extern const struct kvm_views_ops *kvm_views_ops;
void kvm_views_set_ops(const struct kvm_views_ops *ops);

/* views.c */
struct kvm *kvm_views_get_kvm(struct kvm_views *views);
void kvm_views_put(struct kvm_views *views);
bool kvm_views_nested(struct kvm *kvm);
u64 kvm_views_exits(struct kvm *kvm);
int kvm_views_enable(struct kvm_views *views, struct kvm_views_enable *arg);

/* file.c */
int kvm_views_make_fd(struct kvm_views *views);

/* events.c */
int kvm_views_init_events(struct kvm_views *views);
void kvm_views_clear_events(struct kvm_views *views);
void kvm_views_fill_event(struct kvm_vcpu *vcpu, struct kvm_views_event *event, u32 type,
			  u32 access, gpa_t gpa, gva_t gva, u64 arg);
bool kvm_views_queue(struct kvm_views *views, const struct kvm_views_event *event);
bool kvm_views_queue_event(struct kvm_vcpu *vcpu, u32 type, u32 access, gpa_t gpa,
			   gva_t gva, u64 arg);
void kvm_views_queue_slot_event(struct kvm_views *views,
				const struct kvm_memory_slot *slot);
ssize_t kvm_views_read_events(struct kvm_views *views, char __user *buf, size_t len,
			      bool nonblock);
__poll_t kvm_views_poll_events(struct kvm_views *views, struct file *file,
			       poll_table *table);

/* region.c */
int kvm_views_set_region(struct kvm_views *views, struct kvm_views_region *arg);
void kvm_views_free_region(struct kvm_views *views);
int kvm_views_map_region(struct kvm_views *views, struct vm_area_struct *vma);

static inline struct kvm_views_area *kvm_views_area(struct kvm_views *views)
{
	return srcu_dereference_check(views->area, &views->kvm->srcu,
				      lockdep_is_held(&views->lock));
}

static inline bool kvm_views_area_has(struct kvm_views_area *area, gfn_t gfn)
{
	return area && gfn >= area->gfn && gfn - area->gfn < area->pages->nr;
}

static inline struct page *kvm_views_area_page(struct kvm_views_area *area, gfn_t gfn)
{
	return area->pages->page[gfn - area->gfn];
}

/* premap.c */
void kvm_views_premap(struct kvm_vcpu *vcpu);

/* rights.c */
unsigned int kvm_views_rights(struct kvm_views *views, unsigned int view, gfn_t gfn,
			      unsigned int *on);
int kvm_views_max_level(struct kvm_views *views, unsigned int view, gfn_t gfn, int level);
int kvm_views_protect(struct kvm_views *views, struct kvm_views_protect *arg);

/* fault.c */
void kvm_views_violation(struct kvm_vcpu *vcpu, unsigned int access, gpa_t gpa,
			 gva_t gva);

/* world.c */
void kvm_views_stop_world(struct kvm_views *views);
void kvm_views_resume_world(struct kvm_views *views);
int kvm_views_wait_while(struct kvm_vcpu *vcpu, bool *condition);

/* quiesce.c */
u32 kvm_views_mark_lingering(struct kvm_views *views);
int kvm_views_quiesce(struct kvm_views *views, unsigned long how);

/* calls.c */
void kvm_views_mark_returns(struct kvm_views *views);
void kvm_views_note_return(struct kvm_vcpu *vcpu);
bool kvm_views_may_return(struct kvm_vcpu *vcpu);

/* patch.c */
int kvm_views_patch(struct kvm_views *views, struct kvm_views_patches __user *argp);
void kvm_views_undo(struct kvm_views *views, struct page *page, gpa_t gpa,
		    struct kvm_views_undo *undo);
void kvm_views_restore(struct kvm_views *views, bool hooks_only);
void kvm_views_forget_patches(struct kvm_views *views);
void kvm_views_log_dirty(struct kvm_vcpu *vcpu);

/* hide.c */
unsigned int kvm_views_hidden_rights(struct kvm_views *views, unsigned int view, gfn_t gfn);
int kvm_views_hide(struct kvm_views *views, gfn_t gfn);
bool kvm_views_zap_hidden(struct kvm_views *views);
void kvm_views_unhide(struct kvm_views *views, gfn_t gfn);
void kvm_views_unhide_all(struct kvm_views *views);
void kvm_views_rehide_work(struct work_struct *work);
void kvm_views_retire_work(struct work_struct *work);
bool kvm_views_let_through(struct kvm_vcpu *vcpu);
bool kvm_views_emulate_hidden(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, void *val,
			      unsigned int bytes, bool write, int *ret);

/* drain.c */
void kvm_views_start_drain(struct kvm_views *views);
void kvm_views_detach(struct kvm_views *views);
int kvm_views_disable(struct kvm_views *views);
void kvm_views_hasten_drain(struct kvm_vcpu *vcpu);
void kvm_views_drain_work(struct work_struct *work);

/* snapshot.c */
int kvm_views_get_vcpu(struct kvm_views *views, struct kvm_views_vcpu *arg);

/* memory.c */
int kvm_views_read_mem(struct kvm *kvm, struct kvm_views_mem *arg);
int kvm_views_get_slots(struct kvm *kvm, struct kvm_views_slots *arg);
void kvm_views_get_info(struct kvm_views *views, struct kvm_views_info *info);
struct page *kvm_views_pin(struct kvm *kvm, gpa_t gpa);
void kvm_views_unpin(struct page *page);

/* offer.c */
void kvm_views_get_offer(struct kvm *kvm, struct kvm_views_offer *arg);
void kvm_views_free_offer(struct kvm *kvm);

/* vcpu.c */
void kvm_views_expel(struct kvm_vcpu *vcpu, unsigned int access, gpa_t gpa, gva_t gva);
int kvm_views_resume_vcpu(struct kvm_views *views, struct kvm_views_resume *arg);

#endif
