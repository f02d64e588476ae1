// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: what each view allows on each page. The main view allows all on
 * RAM but for its overrides, the shadow view lets RAM be read, and the pages of
 * the hidden region have rights of their own in each view.
 */
#include <linux/kvm_host.h>

#include "mmu.h"
#include "views/internal.h"
#include "views/views_mmu.h"

/* Returns KVM_VIEWS_R/W/X, and in *on the answer to an access that they forbid. */
unsigned int kvm_views_rights(struct kvm_views *views, unsigned int view, gfn_t gfn,
			      unsigned int *on)
{
	struct kvm_views_area *area = kvm_views_area(views);
	unsigned int entry = VIEWS_RIGHTS_MASK;
	void *override;

	if (kvm_views_area_has(area, gfn)) {
		entry = READ_ONCE(area->rights[view][gfn - area->gfn]);
	} else if (view != KVM_VIEWS_MAIN) {
		entry = KVM_VIEWS_R;
	} else {
		override = xa_load(&views->overrides, gfn);
		if (override)
			entry = xa_to_value(override);
	}

	*on = entry >> VIEWS_ON_SHIFT;
	return entry & VIEWS_RIGHTS_MASK;
}

unsigned int __kvm_views_spte_access(struct kvm *kvm, unsigned int view, gfn_t gfn)
{
	unsigned int on;
	unsigned int rights = kvm_views_rights(kvm->arch.views, view, gfn, &on) &
			      kvm_views_hidden_rights(kvm->arch.views, view, gfn);

	return (rights & KVM_VIEWS_R ? ACC_USER_MASK : 0) |
	       (rights & KVM_VIEWS_W ? ACC_WRITE_MASK : 0) |
	       (rights & KVM_VIEWS_X ? ACC_EXEC_MASK : 0);
}

u64 __kvm_views_spte_ve(struct kvm *kvm, gfn_t gfn)
{
	struct kvm_views *views = kvm->arch.views;

	if (!views->ve || kvm_views_area_has(kvm_views_area(views), gfn))
		return 0;

	return VMX_EPT_SUPPRESS_VE_BIT;
}

static bool views_uniform(struct kvm_views *views, unsigned int view, gfn_t first,
			  gfn_t last)
{
	struct kvm_views_area *area = kvm_views_area(views);
	unsigned long index = first, hidden = first;

	if (area && first < area->gfn + area->pages->nr && last >= area->gfn)
		return false;

	return view != KVM_VIEWS_MAIN ||
	       (!xa_find(&views->overrides, &index, last, XA_PRESENT) &&
		!xa_find(&views->hidden, &hidden, last, XA_PRESENT));
}

int kvm_views_max_level(struct kvm_views *views, unsigned int view, gfn_t gfn, int level)
{
	while (level > PG_LEVEL_4K) {
		gfn_t first = gfn_round_for_level(gfn, level);

		if (views_uniform(views, view, first, first + KVM_PAGES_PER_HPAGE(level) - 1))
			break;
		level--;
	}
	return level;
}

void __kvm_views_limit_level(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	fault->max_level = kvm_views_max_level(vcpu->kvm->arch.views,
					       vcpu->arch.views->view, fault->gfn,
					       fault->max_level);
}

static int views_protect_ram(struct kvm_views *views, gfn_t gfn, u32 nr, bool clear,
			     unsigned int entry)
{
	gfn_t end = gfn + nr;
	int r;

	for (; gfn < end; gfn++) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();

		if (clear) {
			xa_erase(&views->overrides, gfn);
			continue;
		}
		r = xa_err(xa_store(&views->overrides, gfn, xa_mk_value(entry),
				    GFP_KERNEL_ACCOUNT));
		if (r)
			return r;
	}
	return 0;
}

static int views_protect(struct kvm_views *views, struct kvm_views_protect *arg)
{
	struct kvm_views_area *area = kvm_views_area(views);
	unsigned int entry = arg->rights | arg->on << VIEWS_ON_SHIFT;
	gfn_t gfn = gpa_to_gfn(arg->gpa);
	gfn_t end = gfn + arg->pages;
	int r = 0;

	if (views->state == KVM_VIEWS_STATE_DRAINING)
		return -EBUSY;

	if (area && gfn < area->gfn + area->pages->nr && end > area->gfn) {
		u8 *rights = area->rights[arg->view];
		gfn_t g;

		if (!kvm_views_area_has(area, gfn) || !kvm_views_area_has(area, end - 1))
			return -EINVAL;
		for (g = gfn; g < end; g++)
			WRITE_ONCE(rights[g - area->gfn], entry);
	} else {
		if (arg->view != KVM_VIEWS_MAIN)
			return -EINVAL;
		r = views_protect_ram(views, gfn, arg->pages,
				      arg->flags & KVM_VIEWS_PROTECT_CLEAR, entry);
	}

	/* Entries of the old rights go; faults make new ones, with their own size. */
	if (views->armed)
		kvm_zap_gfn_range(views->kvm, gfn, end);
	return r;
}

int kvm_views_protect(struct kvm_views *views, struct kvm_views_protect *arg)
{
	int r;

	if (arg->view >= KVM_VIEWS_COUNT || !arg->pages || !PAGE_ALIGNED(arg->gpa) ||
	    memchr_inv(arg->pad, 0, sizeof(arg->pad)) ||
	    arg->flags & ~KVM_VIEWS_PROTECT_CLEAR ||
	    arg->rights & ~VIEWS_RIGHTS_MASK || arg->on > KVM_VIEWS_ON_INJECT ||
	    gpa_to_gfn(arg->gpa) + arg->pages - 1 > kvm_mmu_max_gfn())
		return -EINVAL;
	if ((arg->rights & KVM_VIEWS_W) && !(arg->rights & KVM_VIEWS_R))
		return -EINVAL;
	if ((arg->flags & KVM_VIEWS_PROTECT_CLEAR) && (arg->rights || arg->on))
		return -EINVAL;

	mutex_lock(&views->lock);
	r = views_protect(views, arg);
	mutex_unlock(&views->lock);
	return r;
}
