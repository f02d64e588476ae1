// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: pages are mapped in a view before they are used there, so that not
 * even the first event makes its vCPU exit.
 *
 * The hidden region: a vCPU that has got its roots maps it. They are new after
 * KVM_VIEWS_ENABLE and whenever KVM has dropped all roots. All vCPUs share them,
 * so the first one does the work and the others wait for it. What is zapped
 * later, because its rights change, is mapped again on demand.
 *
 * Guest RAM: a fault in one view maps the page in both.
 */
#include <linux/kvm_host.h>

#include "mmu/tdp_mmu.h"
#include "views/internal.h"
#include "views/views_mmu.h"

/* Who wants mmu_lock for writing waits for no more than this. */
#define VIEWS_PREMAP_BATCH	64

/* A batch may need the tables of two paths through the tree. */
#define VIEWS_PREMAP_TABLES	(2 * PT64_ROOT_MAX_LEVEL)

static bool views_is_mapped(struct kvm_vcpu *vcpu, gfn_t gfn)
{
	u64 sptes[PT64_ROOT_MAX_LEVEL + 1];
	int root_level, leaf;
	u64 spte = 0;

	kvm_tdp_mmu_walk_lockless_begin();
	leaf = kvm_tdp_mmu_get_walk(vcpu, gfn_to_gpa(gfn), sptes, &root_level);
	if (leaf >= 0)
		spte = sptes[leaf];
	kvm_tdp_mmu_walk_lockless_end();

	return is_shadow_present_pte(spte);
}

static int views_map_page(struct kvm_vcpu *vcpu, struct kvm_views_area *area, gfn_t gfn)
{
	struct kvm_page_fault fault = {
		.addr = gfn_to_gpa(gfn),
		.gfn = gfn,
		.is_tdp = true,
		.max_level = PG_LEVEL_4K,
		.req_level = PG_LEVEL_4K,
		.goal_level = PG_LEVEL_4K,
		.slot = &area->slot,
		.pfn = page_to_pfn(kvm_views_area_page(area, gfn)),
		.hva = KVM_HVA_ERR_BAD,
		.map_writable = true,
	};

	return kvm_tdp_mmu_map(vcpu, &fault);
}

/* Maps some pages of the current root from *index on. Nonzero: give up. */
static int views_premap_batch(struct kvm_vcpu *vcpu, struct kvm_views_area *area,
			      const u8 *rights, u32 *index)
{
	struct kvm *kvm = vcpu->kvm;
	u32 n;
	int r;

	r = kvm_mmu_topup_memory_cache(&vcpu->arch.mmu_shadow_page_cache,
				       VIEWS_PREMAP_TABLES);
	if (r)
		return r;
	r = kvm_mmu_topup_memory_cache(&vcpu->arch.mmu_page_header_cache,
				       VIEWS_PREMAP_TABLES);
	if (r)
		return r;

	read_lock(&kvm->mmu_lock);

	/*
	 * Nothing may be mapped any more once the roots are being dropped, or the
	 * views end, which disarms them first and then drops the roots.
	 */
	if (!READ_ONCE(kvm->arch.views->armed) ||
	    root_to_sp(vcpu->arch.mmu->root.hpa)->role.invalid)
		r = -EAGAIN;

	for (n = 0; !r && n < VIEWS_PREMAP_BATCH && *index < area->pages->nr; n++) {
		u32 i = (*index)++;

		/* A page that somebody else is changing is left to its first use. */
		if ((READ_ONCE(rights[i]) & VIEWS_RIGHTS_MASK) &&
		    views_map_page(vcpu, area, area->gfn + i) == RET_PF_RETRY)
			break;
	}

	read_unlock(&kvm->mmu_lock);
	return r;
}

/* The region's pages in @view, whose root is the current one. */
static void views_premap_view(struct kvm_vcpu *vcpu, struct kvm_views_area *area,
			      unsigned int view)
{
	const u8 *rights = area->rights[view];
	u32 index = 0, last = area->pages->nr;

	/* They are mapped in order: if the last one is, all are. */
	while (last && !(READ_ONCE(rights[last - 1]) & VIEWS_RIGHTS_MASK))
		last--;
	if (!last || views_is_mapped(vcpu, area->gfn + last - 1))
		return;

	while (index < last && !fatal_signal_pending(current)) {
		if (views_premap_batch(vcpu, area, rights, &index))
			break;
		cond_resched();
	}
}

/* The caller holds kvm->srcu for the area. */
void kvm_views_premap(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_area *area = kvm_views_area(views);
	struct kvm_mmu *mmu = vcpu->arch.mmu;
	unsigned int view = vcpu->arch.views->view;

	if (!area)
		return;

	mutex_lock(&views->premap_lock);
	views_premap_view(vcpu, area, view);
	swap(mmu->root.hpa, mmu->view_root);
	views_premap_view(vcpu, area, !view);
	swap(mmu->root.hpa, mmu->view_root);
	mutex_unlock(&views->premap_lock);
}

/* The tables of one path, besides the root, that the fault has left over. */
static bool views_has_tables(struct kvm_vcpu *vcpu)
{
	int needed = vcpu->arch.mmu->root_role.level - 1;

	return kvm_mmu_memory_cache_nr_free_objects(&vcpu->arch.mmu_shadow_page_cache) >= needed &&
	       kvm_mmu_memory_cache_nr_free_objects(&vcpu->arch.mmu_page_header_cache) >= needed;
}

/*
 * An entry that is there stays: it may allow more than this one would. If
 * somebody else is at work on the entry it is left to its first use.
 */
void __kvm_views_map_other(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			   kvm_pfn_t pfn)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_mmu *mmu = vcpu->arch.mmu;
	unsigned int other = !vcpu->arch.views->view;
	struct kvm_page_fault copy = {
		.addr = fault->addr,
		.gfn = fault->gfn,
		.is_tdp = true,
		.nx_huge_page_workaround_enabled = fault->nx_huge_page_workaround_enabled,
		.req_level = PG_LEVEL_4K,
		.goal_level = PG_LEVEL_4K,
		.slot = fault->slot,
		.pfn = pfn,
		.hva = fault->hva,
		.map_writable = fault->map_writable,
	};

	lockdep_assert_held_read(&vcpu->kvm->mmu_lock);

	if (is_error_noslot_pfn(pfn) || kvm_views_area_has(kvm_views_area(views), fault->gfn))
		return;
	if (!VALID_PAGE(mmu->view_root) || root_to_sp(mmu->view_root)->role.invalid ||
	    !views_has_tables(vcpu))
		return;

	copy.max_level = kvm_views_max_level(views, other, fault->gfn, fault->max_level);

	swap(mmu->root.hpa, mmu->view_root);
	if (!views_is_mapped(vcpu, fault->gfn))
		kvm_tdp_mmu_map(vcpu, &copy);
	swap(mmu->root.hpa, mmu->view_root);
}
