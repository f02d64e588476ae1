// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: patches of guest RAM and the list of what they replaced.
 */
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "views/internal.h"

#define VIEWS_PATCH_FLAGS \
	(KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_REVERT | KVM_VIEWS_PATCH_HIDE | \
	 KVM_VIEWS_PATCH_CALL)

/* A batch on its way; all arrays have @nr elements. */
struct views_batch {
	u32 nr;
	struct kvm_views_patch *patch;
	struct page **page;
	struct kvm_views_undo **undo;
};

static struct kvm_views_undo *views_find_undo(struct kvm_views *views, gpa_t gpa, u32 len)
{
	struct kvm_views_undo *undo = xa_load(&views->undo, gpa);

	return undo && undo->len == len ? undo : NULL;
}

/* Is there a patch that shares a byte with, but is not, this one? */
static bool views_overlaps_undo(struct kvm_views *views, gpa_t gpa, u32 len)
{
	unsigned long first = gpa > KVM_VIEWS_MAX_PATCH_LEN ? gpa - KVM_VIEWS_MAX_PATCH_LEN : 0;
	struct kvm_views_undo *undo;
	unsigned long at;

	xa_for_each_range(&views->undo, at, undo, first, gpa + len - 1) {
		if (at + undo->len > gpa && !(at == gpa && undo->len == len))
			return true;
	}
	return false;
}

/*
 * mark_page_dirty() wants a running vCPU. A bitmap can be written here, a dirty
 * ring belongs to a vCPU: the first one that comes by logs the page.
 */
static void views_mark_dirty(struct kvm_views *views, gfn_t gfn)
{
	struct kvm *kvm = views->kvm;
	struct kvm_memory_slot *slot;
	int idx;

	if (kvm->dirty_ring_size)
		xa_store(&views->dirty, gfn, xa_mk_value(0), GFP_KERNEL | __GFP_NOFAIL);

	idx = srcu_read_lock(&kvm->srcu);
	slot = gfn_to_memslot(kvm, gfn);
	if (slot && kvm_slot_dirty_track_enabled(slot) && slot->dirty_bitmap)
		set_bit_le(gfn - slot->base_gfn, slot->dirty_bitmap);
	srcu_read_unlock(&kvm->srcu, idx);
}

/* On the vCPU's thread. A ring that is nearly full goes to the VMM first. */
void kvm_views_log_dirty(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	unsigned long gfn;
	void *entry;

	xa_for_each(&views->dirty, gfn, entry) {
		if (kvm_test_request(KVM_REQ_DIRTY_RING_SOFT_FULL, vcpu)) {
			kvm_make_request(KVM_REQ_VIEWS, vcpu);
			return;
		}
		/* Of several vCPUs one has it. */
		if (xa_erase(&views->dirty, gfn))
			kvm_vcpu_mark_page_dirty(vcpu, gfn);
	}
}

static bool views_matches(struct page *page, gpa_t gpa, const u8 *bytes, u32 len)
{
	void *at = kmap_local_page(page);
	bool same = !memcmp(at + offset_in_page(gpa), bytes, len);

	kunmap_local(at);
	return same;
}

static void views_write(struct kvm_views *views, struct page *page, gpa_t gpa,
			const u8 *bytes, u32 len)
{
	void *at = kmap_local_page(page);

	memcpy(at + offset_in_page(gpa), bytes, len);
	kunmap_local(at);
	views_mark_dirty(views, gpa_to_gfn(gpa));
}

/* Does this patch use the page that the one before it has pinned, hidden and so on? */
static bool views_same_page(struct views_batch *batch, u32 i)
{
	return i && gpa_to_gfn(batch->patch[i].gpa) == gpa_to_gfn(batch->patch[i - 1].gpa);
}

static void views_free_batch(struct views_batch *batch)
{
	u32 i;

	for (i = 0; i < batch->nr; i++) {
		if (batch->page && !views_same_page(batch, i))
			kvm_views_unpin(batch->page[i]);
		if (batch->undo)
			kfree(batch->undo[i]);
	}
	kvfree(batch->undo);
	kvfree(batch->page);
	kvfree(batch->patch);
}

static int views_check_patch(struct kvm_views *views, struct kvm_views_patch *patch)
{
	if (!patch->len || patch->len > KVM_VIEWS_MAX_PATCH_LEN ||
	    patch->flags & ~VIEWS_PATCH_FLAGS ||
	    offset_in_page(patch->gpa) + patch->len > PAGE_SIZE)
		return -EINVAL;
	if ((patch->flags & KVM_VIEWS_PATCH_CALL) && !(patch->flags & KVM_VIEWS_PATCH_HOOK))
		return -EINVAL;

	if (patch->flags & KVM_VIEWS_PATCH_REVERT)
		return views_find_undo(views, patch->gpa, patch->len) ? 0 : -ESTALE;

	return views_overlaps_undo(views, patch->gpa, patch->len) ? -EINVAL : 0;
}

/*
 * All that may fail or sleep, before the world is stopped: pins the pages and
 * reserves the undo entries.
 */
static int views_prepare(struct kvm_views *views, struct views_batch *batch, u32 *failed)
{
	u32 i;
	int r;

	for (i = 0; i < batch->nr; i++) {
		struct kvm_views_patch *patch = &batch->patch[i];

		*failed = i;
		if (fatal_signal_pending(current))
			return -EINTR;

		r = views_check_patch(views, patch);
		if (r)
			return r;

		if (views_same_page(batch, i))
			batch->page[i] = batch->page[i - 1];
		else
			batch->page[i] = kvm_views_pin(views->kvm, patch->gpa);
		if (IS_ERR(batch->page[i]))
			return PTR_ERR(batch->page[i]);

		if (patch->flags & KVM_VIEWS_PATCH_REVERT ||
		    views_find_undo(views, patch->gpa, patch->len))
			continue;

		batch->undo[i] = kzalloc(sizeof(*batch->undo[i]), GFP_KERNEL_ACCOUNT);
		if (!batch->undo[i])
			return -ENOMEM;
		r = xa_reserve(&views->undo, patch->gpa, GFP_KERNEL_ACCOUNT);
		if (r)
			return r;
		cond_resched();
	}
	return 0;
}

static bool views_wants_hidden(struct kvm_views_patch *patch)
{
	return (patch->flags & KVM_VIEWS_PATCH_HIDE) &&
	       !(patch->flags & KVM_VIEWS_PATCH_REVERT);
}

/* Before any patch is there to be seen. */
static int views_hide_batch(struct kvm_views *views, struct views_batch *batch)
{
	u32 i;
	int r;

	for (i = 0; i < batch->nr; i++) {
		if (!views_wants_hidden(&batch->patch[i]))
			continue;
		r = kvm_views_hide(views, gpa_to_gfn(batch->patch[i].gpa));
		if (r)
			return r;
	}
	/*
	 * A vCPU may be emulating an access to a page that it found not hidden: it is
	 * done when it drops kvm->srcu. After that everybody asks for the patches.
	 */
	if (kvm_views_zap_hidden(views))
		synchronize_srcu_expedited(&views->kvm->srcu);
	return 0;
}

static void views_unhide_batch(struct kvm_views *views, struct views_batch *batch)
{
	u32 i;

	for (i = 0; i < batch->nr; i++) {
		if (!views_same_page(batch, i))
			kvm_views_unhide(views, gpa_to_gfn(batch->patch[i].gpa));
	}
}

static int views_verify(struct kvm_views *views, struct views_batch *batch, u32 *failed)
{
	u32 i;

	for (i = 0; i < batch->nr; i++) {
		struct kvm_views_patch *patch = &batch->patch[i];
		struct kvm_views_undo *undo;

		*failed = i;
		if (!views_matches(batch->page[i], patch->gpa, patch->expect, patch->len))
			return -ESTALE;
		if (!(patch->flags & KVM_VIEWS_PATCH_REVERT))
			continue;
		undo = views_find_undo(views, patch->gpa, patch->len);
		if (memcmp(undo->new, patch->expect, patch->len))
			return -ESTALE;
	}
	return 0;
}

static void views_apply(struct kvm_views *views, struct views_batch *batch)
{
	u32 i;

	down_write(&views->undo_sem);
	for (i = 0; i < batch->nr; i++) {
		struct kvm_views_patch *patch = &batch->patch[i];
		struct kvm_views_undo *undo;

		undo = views_find_undo(views, patch->gpa, patch->len);
		if (patch->flags & KVM_VIEWS_PATCH_REVERT) {
			/* Named twice in this batch: done. */
			if (!undo)
				continue;
			views_write(views, batch->page[i], patch->gpa, undo->old,
				    patch->len);
			views->calls_gone |= undo->call;
			xa_erase(&views->undo, patch->gpa);
			kfree(undo);
			atomic64_dec(&views->undo_entries);
			continue;
		}

		if (!undo) {
			undo = batch->undo[i];
			batch->undo[i] = NULL;
			undo->len = patch->len;
			memcpy(undo->old, patch->expect, patch->len);
			/* The slot is reserved, this can't fail. */
			xa_store(&views->undo, patch->gpa, undo, GFP_NOWAIT);
			atomic64_inc(&views->undo_entries);
		}
		/* One patch in place of another. */
		views->calls_gone |= undo->call;
		undo->call = patch->flags & KVM_VIEWS_PATCH_CALL;
		undo->hook = patch->flags & KVM_VIEWS_PATCH_HOOK;
		undo->hide = patch->flags & KVM_VIEWS_PATCH_HIDE;
		memcpy(undo->new, patch->bytes, patch->len);
		views_write(views, batch->page[i], patch->gpa, patch->bytes, patch->len);
	}
	up_write(&views->undo_sem);
}

/* In the order of their addresses, and apart? Then there is no need to look at each pair. */
static bool views_is_sorted(struct views_batch *batch)
{
	u32 i;

	for (i = 1; i < batch->nr; i++) {
		struct kvm_views_patch *before = &batch->patch[i - 1];

		if (batch->patch[i].gpa < before->gpa ||
		    batch->patch[i].gpa - before->gpa < before->len)
			return false;
	}
	return true;
}

/* Two patches of one batch must not meet, nor one come before its own revert. */
static int views_check_batch(struct views_batch *batch, u32 *failed)
{
	struct xarray seen;
	unsigned long at;
	int r = 0;
	u32 i;

	if (views_is_sorted(batch))
		return 0;

	xa_init(&seen);
	for (i = 0; i < batch->nr && !r; i++) {
		struct kvm_views_patch *patch = &batch->patch[i];
		gpa_t last = patch->gpa + min(patch->len, KVM_VIEWS_MAX_PATCH_LEN) - 1;
		void *other;

		*failed = i;
		xa_for_each_range(&seen, at, other,
				  patch->gpa > KVM_VIEWS_MAX_PATCH_LEN ?
				  patch->gpa - KVM_VIEWS_MAX_PATCH_LEN : 0, last) {
			if (at + xa_to_value(other) > patch->gpa)
				r = -EINVAL;
		}
		if (!r)
			r = xa_err(xa_store(&seen, patch->gpa,
					    xa_mk_value(patch->len), GFP_KERNEL));
	}
	xa_destroy(&seen);
	return r;
}

static int views_patch(struct kvm_views *views, struct kvm_views_patches *arg,
		       struct views_batch *batch)
{
	bool tables = false;
	u64 start;
	u32 i;
	int r;

	if (views->state != KVM_VIEWS_STATE_ENABLED)
		return views->state == KVM_VIEWS_STATE_DRAINING ? -EBUSY : -EINVAL;

	r = views_check_batch(batch, &arg->failed_index);
	if (!r)
		r = views_prepare(views, batch, &arg->failed_index);
	if (!r)
		r = views_hide_batch(views, batch);
	if (r)
		goto out;

	start = rdtsc();
	kvm_views_stop_world(views);
	r = views_verify(views, batch, &arg->failed_index);
	if (!r)
		views_apply(views, batch);
	arg->inside = kvm_views_mark_lingering(views);
	for (i = 0; i < batch->nr; i++)
		tables |= !(batch->patch[i].flags & KVM_VIEWS_PATCH_HOOK);
	/* What is no hook may be an entry of the guest's page tables. */
	if (!r && tables)
		kvm_make_all_cpus_request(views->kvm, KVM_REQ_TLB_FLUSH_GUEST);
	kvm_views_resume_world(views);
	arg->pause_tsc = rdtsc() - start;
out:
	views_unhide_batch(views, batch);
	return r;
}

/* Reserved slots of a batch that failed read as empty; give them back. */
static void views_release_slots(struct kvm_views *views, struct views_batch *batch)
{
	u32 i;

	for (i = 0; i < batch->nr; i++)
		xa_release(&views->undo, batch->patch[i].gpa);
}

int kvm_views_patch(struct kvm_views *views, struct kvm_views_patches __user *argp)
{
	struct views_batch batch = { };
	struct kvm_views_patches arg;
	int r;

	if (copy_from_user(&arg, argp, sizeof(arg)))
		return -EFAULT;
	if (!arg.nr || arg.nr > KVM_VIEWS_MAX_PATCHES)
		return -EINVAL;
	if (arg.pad)
		return -EINVAL;
	arg.failed_index = 0;
	arg.pause_tsc = 0;
	arg.inside = 0;

	batch.patch = vmemdup_array_user(u64_to_user_ptr(arg.patches), arg.nr,
					 sizeof(*batch.patch));
	if (IS_ERR(batch.patch))
		return PTR_ERR(batch.patch);
	batch.page = kvcalloc(arg.nr, sizeof(*batch.page), GFP_KERNEL_ACCOUNT);
	batch.undo = kvcalloc(arg.nr, sizeof(*batch.undo), GFP_KERNEL_ACCOUNT);
	batch.nr = arg.nr;

	r = -ENOMEM;
	if (batch.page && batch.undo) {
		mutex_lock(&views->lock);
		r = views_patch(views, &arg, &batch);
		if (r)
			views_release_slots(views, &batch);
		mutex_unlock(&views->lock);
	}
	views_free_batch(&batch);

	if (copy_to_user(argp, &arg, sizeof(arg)))
		return -EFAULT;
	return r;
}

/*
 * Puts back what a patch in @page replaced. The world is stopped. Bytes that the
 * guest changed since are the guest's and stay, as do those of a page that is gone.
 */
void kvm_views_undo(struct kvm_views *views, struct page *page, gpa_t gpa,
		    struct kvm_views_undo *undo)
{
	down_write(&views->undo_sem);
	if (!IS_ERR(page) && views_matches(page, gpa, undo->new, undo->len))
		views_write(views, page, gpa, undo->old, undo->len);
	else
		atomic64_inc(&views->undo_conflicts);
	views->calls_gone |= undo->call;
	xa_erase(&views->undo, gpa);
	up_write(&views->undo_sem);

	kfree(undo);
	atomic64_dec(&views->undo_entries);
}

/* Puts back what hooks, or all patches, replaced. The world is stopped. */
void kvm_views_restore(struct kvm_views *views, bool hooks_only)
{
	struct kvm_views_undo *undo;
	struct page *page;
	unsigned long gpa;

	lockdep_assert_held(&views->lock);

	xa_for_each(&views->undo, gpa, undo) {
		if (hooks_only && !undo->hook)
			continue;

		page = kvm_views_pin(views->kvm, gpa);
		kvm_views_undo(views, page, gpa, undo);
		kvm_views_unpin(page);
	}
	kvm_views_mark_returns(views);
	kvm_views_unhide_all(views);
}

/* The VM's memory goes with the VM. */
void kvm_views_forget_patches(struct kvm_views *views)
{
	struct kvm_views_undo *undo;
	unsigned long gpa;

	xa_for_each(&views->undo, gpa, undo)
		kfree(undo);
	xa_destroy(&views->undo);
	xa_destroy(&views->hidden);
	xa_destroy(&views->dirty);
	atomic64_set(&views->undo_entries, 0);
}
