// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: patches that the guest does not see. A page that has one can only
 * be executed in the main view. The guest's reads of it are emulated and show
 * what the patches replaced. Its writes are emulated, too; one that touches a
 * patch first has that patch retired: the bytes it replaced go back as a whole
 * while the world stands still, and then the vCPU runs its instruction again. So
 * nobody runs half of a patch, whatever order the guest writes its own text in.
 *
 * What the emulator cannot do happens as it is: the page may be read for a
 * moment, or loses all of its patches if it is to be written.
 */
#include <linux/kvm_host.h>

#include "kvm_emulate.h"
#include "mmu/tdp_mmu.h"
#include "views/internal.h"
#include "views/views_mmu.h"
#include "x86.h"

/* How a page with hidden patches stands; as kept in views->hidden. */
#define VIEWS_HIDDEN	1UL
#define VIEWS_EXPOSED	2UL	/* may be read until the work item comes */

/* A page that was hidden or exposed anew and may still be mapped as before. */
#define VIEWS_MAPPED	XA_MARK_0

#define VIEWS_EXPOSED_MS	10

/* KVM_VIEWS_R/W/X that hidden patches leave to a page. No lock: the MMU asks, too. */
unsigned int kvm_views_hidden_rights(struct kvm_views *views, unsigned int view, gfn_t gfn)
{
	void *state;

	if (view != KVM_VIEWS_MAIN)
		return VIEWS_RIGHTS_MASK;

	state = xa_load(&views->hidden, gfn);
	if (!state)
		return VIEWS_RIGHTS_MASK;

	return xa_to_value(state) == VIEWS_EXPOSED ? KVM_VIEWS_R | KVM_VIEWS_X : KVM_VIEWS_X;
}

static bool views_is_hidden(struct kvm_views *views, gfn_t gfn)
{
	return xa_load(&views->hidden, gfn);
}

/* To be followed by kvm_views_zap_hidden(), which may do many pages at once. */
int kvm_views_hide(struct kvm_views *views, gfn_t gfn)
{
	int r;

	lockdep_assert_held(&views->lock);

	r = xa_insert(&views->hidden, gfn, xa_mk_value(VIEWS_HIDDEN), GFP_KERNEL_ACCOUNT);
	if (r)
		return r == -EBUSY ? 0 : r;

	xa_set_mark(&views->hidden, gfn, VIEWS_MAPPED);
	return 0;
}

/* True: there was one, and it is not mapped as before any more. */
bool kvm_views_zap_hidden(struct kvm_views *views)
{
	struct kvm *kvm = views->kvm;
	unsigned long gfn;
	bool flush = false;
	void *state;

	lockdep_assert_held(&views->lock);

	if (!xa_marked(&views->hidden, VIEWS_MAPPED))
		return false;

	/* Who makes an entry holds mmu_lock while it asks for the rights. */
	write_lock(&kvm->mmu_lock);
	xa_for_each_marked(&views->hidden, gfn, state, VIEWS_MAPPED) {
		flush = kvm_tdp_mmu_zap_leafs(kvm, gfn, gfn + 1, flush);
		xa_clear_mark(&views->hidden, gfn, VIEWS_MAPPED);
	}
	if (flush)
		kvm_flush_remote_tlbs(kvm);
	write_unlock(&kvm->mmu_lock);
	return true;
}

static bool views_hides(struct kvm_views *views, gfn_t gfn)
{
	struct kvm_views_undo *undo;
	unsigned long gpa;

	xa_for_each_range(&views->undo, gpa, undo, gfn_to_gpa(gfn), gfn_to_gpa(gfn + 1) - 1) {
		if (undo->hide)
			return true;
	}
	return false;
}

/* If none of its patches is hidden any more. The next fault finds the page's rights. */
void kvm_views_unhide(struct kvm_views *views, gfn_t gfn)
{
	lockdep_assert_held(&views->lock);

	if (views_is_hidden(views, gfn) && !views_hides(views, gfn))
		xa_erase(&views->hidden, gfn);
}

void kvm_views_unhide_all(struct kvm_views *views)
{
	unsigned long gfn;
	void *state;

	xa_for_each(&views->hidden, gfn, state)
		kvm_views_unhide(views, gfn);
}

/* Exposed pages have had their time. */
void kvm_views_rehide_work(struct work_struct *work)
{
	struct kvm_views *views = container_of(to_delayed_work(work), struct kvm_views,
					       rehide);
	unsigned long gfn;
	void *state;

	mutex_lock(&views->lock);
	xa_for_each(&views->hidden, gfn, state) {
		if (xa_to_value(state) != VIEWS_EXPOSED)
			continue;
		/* In place of another entry: needs no memory. */
		xa_store(&views->hidden, gfn, xa_mk_value(VIEWS_HIDDEN), GFP_KERNEL);
		xa_set_mark(&views->hidden, gfn, VIEWS_MAPPED);
	}
	kvm_views_zap_hidden(views);
	mutex_unlock(&views->lock);
}

static void views_expose(struct kvm_views *views, gfn_t gfn)
{
	/* In place of another entry, or not at all. */
	xa_cmpxchg(&views->hidden, gfn, xa_mk_value(VIEWS_HIDDEN),
		   xa_mk_value(VIEWS_EXPOSED), GFP_NOWAIT);
	atomic64_inc(&views->exposed);
	queue_delayed_work(system_wq, &views->rehide, msecs_to_jiffies(VIEWS_EXPOSED_MS));
}

/* The first hidden patch that has a byte of [gpa, gpa + len). */
static struct kvm_views_undo *views_find_hidden(struct kvm_views *views, gpa_t gpa, u32 len,
						unsigned long *at)
{
	unsigned long last = gpa + len - 1;
	struct kvm_views_undo *undo;

	*at = gpa > KVM_VIEWS_MAX_PATCH_LEN ? gpa - KVM_VIEWS_MAX_PATCH_LEN : 0;
	for (undo = xa_find(&views->undo, at, last, XA_PRESENT); undo;
	     undo = xa_find_after(&views->undo, at, last, XA_PRESENT)) {
		if (undo->hide && *at + undo->len > gpa)
			return undo;
	}
	return NULL;
}

/* What the guest is to read instead of the patches. */
static void views_overlay(struct kvm_views *views, gpa_t gpa, u8 *val, u32 len)
{
	unsigned long first = gpa > KVM_VIEWS_MAX_PATCH_LEN ? gpa - KVM_VIEWS_MAX_PATCH_LEN : 0;
	struct kvm_views_undo *undo;
	unsigned long at;

	xa_for_each_range(&views->undo, at, undo, first, gpa + len - 1) {
		gpa_t begin = max_t(gpa_t, at, gpa);
		gpa_t end = min_t(gpa_t, at + undo->len, gpa + len);

		if (undo->hide && begin < end)
			memcpy(val + (begin - gpa), undo->old + (begin - at), end - begin);
	}
}

/*
 * Has the patches in [gpa, gpa + len), all in one page, retired before this vCPU
 * runs guest code again. A vCPU may be killed: a work item does it.
 */
static void views_overwrite(struct kvm_vcpu *vcpu, gpa_t gpa, u32 len, gva_t gva,
			    const void *val)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_overwrite *o = &vcpu->arch.views->overwrite;
	u64 bytes = 0;

	/* A completion of user space I/O came before the one that waits: it comes again. */
	if (o->wanted)
		return;

	if (val)
		memcpy(&bytes, val, min_t(u32, len, sizeof(bytes)));
	o->gpa = gpa;
	o->len = len;
	kvm_views_fill_event(vcpu, &o->event, KVM_VIEWS_EVENT_OVERWRITTEN, KVM_VIEWS_W, gpa,
			     gva, bytes);
	/* Pairs with kvm_views_retire_work(). */
	smp_store_release(&o->wanted, true);
	kvm_make_request(KVM_REQ_VIEWS, vcpu);
	queue_work(system_wq, &views->retire);
}

static void views_retire(struct kvm_views *views, struct kvm_views_overwrite *o)
{
	struct kvm_views_undo *undo;
	struct page *page;
	unsigned long at;

	if (!views_find_hidden(views, o->gpa, o->len, &at))
		return;

	page = kvm_views_pin(views->kvm, o->gpa);
	kvm_views_stop_world(views);
	while ((undo = views_find_hidden(views, o->gpa, o->len, &at))) {
		kvm_views_undo(views, page, at, undo);
		atomic64_inc(&views->overwritten);
		o->event.gpa = at;
		kvm_views_queue(views, &o->event);
	}
	kvm_views_mark_lingering(views);
	kvm_views_resume_world(views);
	kvm_views_unpin(page);
	kvm_views_unhide(views, gpa_to_gfn(o->gpa));
}

void kvm_views_retire_work(struct work_struct *work)
{
	struct kvm_views *views = container_of(work, struct kvm_views, retire);
	struct kvm_vcpu *vcpu;
	unsigned long i;

	mutex_lock(&views->lock);
	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		struct kvm_views_overwrite *o = &vcpu->arch.views->overwrite;

		/* Pairs with views_overwrite(). */
		if (!smp_load_acquire(&o->wanted))
			continue;
		views_retire(views, o);
		/* Pairs with kvm_views_wait_while(). */
		smp_store_release(&o->wanted, false);
	}
	mutex_unlock(&views->lock);
	wake_up_all(&views->wait);
}

/* Of a vCPU that emulates an access to a hidden page, or would have to: give up on that. */
bool kvm_views_let_through(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_hidden_access *h = &vcpu->arch.views->hidden;

	if (!h->tried)
		return false;

	h->tried = false;
	kvm_views_violation(vcpu, h->write ? KVM_VIEWS_W : KVM_VIEWS_R, h->gpa, h->gva);
	if (h->write)
		views_overwrite(vcpu, h->gpa & PAGE_MASK, PAGE_SIZE, h->gva, NULL);
	else
		views_expose(views, gpa_to_gfn(h->gpa));
	return true;
}

/* An access that the page's own rights allow, but hidden patches do not. */
int kvm_views_hidden_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_hidden_access *h = &vcpu->arch.views->hidden;

	/* The entry has the right to execute. */
	if (fault->prefetch)
		return RET_PF_CONTINUE;

	atomic64_inc(fault->write ? &views->hidden_writes : &views->hidden_reads);
	h->tried = true;
	h->write = fault->write;
	h->gpa = fault->addr;
	h->gva = kvm_views_ops->fault_gva(vcpu);

	/* The CPU's own access, to a guest's page table or to deliver an event. */
	if (kvm_event_needs_reinjection(vcpu) || (fault->error_code & PFERR_GUEST_PAGE_MASK)) {
		kvm_views_let_through(vcpu);
		return RET_PF_RETRY;
	}
	return RET_PF_EMULATE;
}

/* The emulator's access to RAM in the main view. False: there is nothing hidden. */
bool kvm_views_emulate_hidden(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, void *val,
			      unsigned int bytes, bool write, int *ret)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	unsigned long at;
	bool done;

	if (!views_is_hidden(views, gpa_to_gfn(gpa)))
		return false;

	*ret = X86EMUL_CONTINUE;
	down_read(&views->undo_sem);
	if (!write) {
		done = !kvm_vcpu_read_guest(vcpu, gpa, val, bytes);
		if (done)
			views_overlay(views, gpa, val, bytes);
	} else if (views_find_hidden(views, gpa, bytes, &at)) {
		views_overwrite(vcpu, gpa, bytes, gva, val);
		*ret = X86EMUL_RETRY_INSTR;
		done = true;
	} else {
		done = emulator_write_phys(vcpu, gpa, val, bytes);
	}
	up_read(&views->undo_sem);
	return done;
}

/* An atomic exchange: if X86EMUL_CONTINUE, kvm_views_end_cmpxchg() follows it. */
int __kvm_views_begin_cmpxchg(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, const void *val,
			      unsigned int bytes)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_hidden_access *h = &vcpu->arch.views->hidden;
	unsigned long at;

	if (!(kvm_views_hidden_rights(views, vcpu->arch.views->view, gpa_to_gfn(gpa)) &
	      KVM_VIEWS_W)) {
		down_read(&views->undo_sem);
		if (!views_find_hidden(views, gpa, bytes, &at)) {
			h->locked = true;
			return X86EMUL_CONTINUE;
		}
		up_read(&views->undo_sem);
		views_overwrite(vcpu, gpa, bytes, gva, val);
		return X86EMUL_RETRY_INSTR;
	}
	return X86EMUL_CONTINUE;
}

void __kvm_views_end_cmpxchg(struct kvm_vcpu *vcpu)
{
	vcpu->arch.views->hidden.locked = false;
	up_read(&vcpu->kvm->arch.views->undo_sem);
}
