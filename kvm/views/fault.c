// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: EPT violations of a vCPU with views. What a view forbids is
 * reported and then answered without ever stopping the VMM.
 */
#include <linux/kvm_host.h>
#include <linux/uaccess.h>

#include "mmu/tdp_mmu.h"
#include "views/internal.h"
#include "views/views_mmu.h"
#include "x86.h"

void kvm_views_violation(struct kvm_vcpu *vcpu, unsigned int access, gpa_t gpa,
			 gva_t gva)
{
	atomic64_inc(&vcpu->kvm->arch.views->violations);
	kvm_views_queue_event(vcpu, KVM_VIEWS_EVENT_VIOLATION, access, gpa, gva, 0);
}

static int views_inject_gp(struct kvm_vcpu *vcpu)
{
	kvm_queue_exception_e(vcpu, GP_VECTOR, 0);
	return RET_PF_RETRY;
}

/* The guest is in the shadow view where it has no business. */
static int views_escape(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			unsigned int access)
{
	kvm_views_expel(vcpu, access, fault->addr, kvm_views_ops->fault_gva(vcpu));
	return RET_PF_RETRY;
}

/*
 * The CPU sets the accessed or the dirty bit of an entry of a guest page table
 * that is read-only in this view; the faulting address is the entry's. Both
 * bits are in its lowest byte. Do what the CPU wanted, one bit per fault.
 */
static bool views_set_accessed(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	unsigned long hva = kvm_vcpu_gfn_to_hva(vcpu, gpa_to_gfn(gpa));
	u8 __user *entry;
	u8 old, new;
	int r;

	if (kvm_is_error_hva(hva))
		return false;

	entry = (u8 __user *)(hva + offset_in_page(gpa));
	if (get_user(old, entry))
		return false;

	new = old | (old & PT_ACCESSED_MASK ? PT_DIRTY_MASK : PT_ACCESSED_MASK);
	if (new == old || !(old & PT_PRESENT_MASK))
		return false;

	/* A race that is lost is run again: the CPU faults anew. */
	r = __try_cmpxchg_user(entry, &old, new, efault);
	if (r < 0)
		return false;

	kvm_vcpu_mark_page_dirty(vcpu, gpa_to_gfn(gpa));
	return true;
}

/* RAM is fetched in the shadow view, and that is to become #VE. */
static int views_fetch_ve(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_area *area = kvm_views_area(views);
	u64 sptes[PT64_ROOT_MAX_LEVEL + 1];
	u32 index = views->ve_page + vcpu->vcpu_id;
	u64 spte = 0;
	int root_level, leaf;

	kvm_tdp_mmu_walk_lockless_begin();
	leaf = kvm_tdp_mmu_get_walk(vcpu, fault->addr, sptes, &root_level);
	if (leaf >= 0)
		spte = sptes[leaf];
	kvm_tdp_mmu_walk_lockless_end();

	/* Map it (never executable): the next fetch raises #VE in the CPU. */
	if (!is_shadow_present_pte(spte) || (spte & VMX_EPT_SUPPRESS_VE_BIT))
		return RET_PF_CONTINUE;

	/* The CPU could not deliver it, or it came while an entry was made. */
	if (area && index < area->pages->nr && !kvm_event_needs_reinjection(vcpu) &&
	    kvm_views_ops->inject_ve(vcpu, page_address(area->pages->page[index]))) {
		atomic64_inc(&views->ve_injected);
		return RET_PF_RETRY;
	}
	return views_escape(vcpu, fault, KVM_VIEWS_X);
}

static int views_forbidden(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			   unsigned int access, unsigned int on)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	kvm_views_violation(vcpu, access, fault->addr, kvm_views_ops->fault_gva(vcpu));

	if (v->view != KVM_VIEWS_MAIN && fault->exec) {
		kvm_views_return_to_main(vcpu);
		return RET_PF_RETRY;
	}

	/*
	 * A fetch can't be let through once. Nor can an access that the CPU made
	 * to deliver an event: there is no instruction to emulate.
	 */
	if (fault->exec || on == KVM_VIEWS_ON_INJECT || kvm_event_needs_reinjection(vcpu)) {
		if (v->view != KVM_VIEWS_MAIN)
			kvm_views_return_to_main(vcpu);
		return views_inject_gp(vcpu);
	}

	/* kvm_views_emulate() answers for each access of the instruction. */
	v->denied = true;
	v->denied_gfn = fault->gfn;
	return RET_PF_EMULATE;
}

int __kvm_views_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_area *area = kvm_views_area(views);
	struct kvm_vcpu_views *v = vcpu->arch.views;
	bool region = kvm_views_area_has(area, fault->gfn);
	unsigned int access = 0, on;
	unsigned int rights;

	if (fault->exec)
		access |= KVM_VIEWS_X;
	if (fault->write)
		access |= KVM_VIEWS_W;
	if (fault->user || !access)
		access |= KVM_VIEWS_R;

	if (!region && !fault->slot) {
		/* MMIO in every view, but nobody runs from there in the shadow view. */
		if (v->view != KVM_VIEWS_MAIN && fault->exec)
			return views_escape(vcpu, fault, access);
		return RET_PF_CONTINUE;
	}

	rights = kvm_views_rights(views, v->view, fault->gfn, &on);

	if (region && !rights) {
		/*
		 * A hole. No MMIO entry is made, which would stay when the page
		 * gets rights.
		 */
		if (fault->prefetch)
			return -EFAULT;
		if (fault->exec || kvm_event_needs_reinjection(vcpu))
			return views_forbidden(vcpu, fault, access, KVM_VIEWS_ON_INJECT);
		return RET_PF_EMULATE;
	}

	if (!(access & ~rights)) {
		if (region) {
			fault->slot = &area->slot;
			fault->max_level = PG_LEVEL_4K;
			atomic64_inc(&views->region_faults);
		} else if (access & ~kvm_views_hidden_rights(views, v->view, fault->gfn)) {
			return kvm_views_hidden_fault(vcpu, fault);
		}
		return RET_PF_CONTINUE;
	}

	if (fault->prefetch)
		return -EFAULT;

	if (fault->write && (fault->error_code & PFERR_GUEST_PAGE_MASK) && !region) {
		if (v->view == KVM_VIEWS_MAIN)
			kvm_views_violation(vcpu, access, fault->addr,
					    kvm_views_ops->fault_gva(vcpu));
		if (views_set_accessed(vcpu, fault->addr))
			return RET_PF_RETRY;
	}

	if (v->view != KVM_VIEWS_MAIN && !region && fault->exec)
		return views->ve ? views_fetch_ve(vcpu, fault) :
				   views_escape(vcpu, fault, access);

	return views_forbidden(vcpu, fault, access, on);
}
