/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * EPT views in the MMU. The roots of a vCPU with views carry the view in their
 * page role, so every walk over all TDP MMU roots (zap, age, write-protect)
 * covers them. role.view is 0 in the roots of a vCPU without views, else one
 * more than the view's index in the EPTP list.
 */
#ifndef __KVM_X86_VIEWS_MMU_H
#define __KVM_X86_VIEWS_MMU_H

#include "views/views.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"

#ifdef CONFIG_KVM_VIEWS

void kvm_mmu_zap_all_fast(struct kvm *kvm);

void __kvm_views_alloc_root(struct kvm_vcpu *vcpu);
void __kvm_views_free_root(struct kvm *kvm, struct kvm_mmu *mmu);
int __kvm_views_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
int kvm_views_hidden_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
bool __kvm_views_faultin_region(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
void __kvm_views_limit_level(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
void __kvm_views_map_other(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			   kvm_pfn_t pfn);
unsigned int __kvm_views_spte_access(struct kvm *kvm, unsigned int view, gfn_t gfn);
u64 __kvm_views_spte_ve(struct kvm *kvm, gfn_t gfn);

/*
 * Accessed and dirty bits are off in both views: with them on, the CPU's own
 * walk of the guest's page tables counts as a write to them, which a view that
 * makes them read-only would forbid.
 */
static inline union kvm_mmu_page_role
kvm_views_role_of(union kvm_mmu_page_role role, unsigned int view)
{
	role.view = view + 1;
	role.ad_disabled = 1;
	/* make_huge_page_split_spte() grants what the role allows. */
	role.access = view == KVM_VIEWS_MAIN ? ACC_ALL : ACC_ALL & ~ACC_EXEC_MASK;
	return role;
}

static inline union kvm_mmu_page_role
kvm_views_role(struct kvm_vcpu *vcpu, union kvm_mmu_page_role role)
{
	return kvm_views_on(vcpu) ?
	       kvm_views_role_of(role, vcpu->arch.views->view) : role;
}

/* The current root was loaded: get the other view's root, too. */
static inline void kvm_views_alloc_root(struct kvm_vcpu *vcpu)
{
	if (kvm_views_on(vcpu))
		__kvm_views_alloc_root(vcpu);
}

static inline void kvm_views_free_root(struct kvm *kvm, struct kvm_mmu *mmu)
{
	if (unlikely(VALID_PAGE(mmu->view_root)))
		__kvm_views_free_root(kvm, mmu);
}

static inline int kvm_views_fault(struct kvm_vcpu *vcpu,
				  struct kvm_page_fault *fault)
{
	return kvm_views_on(vcpu) ? __kvm_views_fault(vcpu, fault) : RET_PF_CONTINUE;
}

/* True: the fault is on a page of the hidden region, fault->pfn is it. */
static inline bool kvm_views_faultin_region(struct kvm_vcpu *vcpu,
					    struct kvm_page_fault *fault)
{
	return kvm_views_on(vcpu) && __kvm_views_faultin_region(vcpu, fault);
}

/* No huge page may cover a page whose rights differ from its neighbours'. */
static inline void kvm_views_limit_level(struct kvm_vcpu *vcpu,
					 struct kvm_page_fault *fault)
{
	if (kvm_views_on(vcpu))
		__kvm_views_limit_level(vcpu, fault);
}

/*
 * @fault was mapped in the current view; its page is @pfn. Under the same
 * mmu_lock it is mapped in the other view, if nothing is there.
 */
static inline void kvm_views_map_other(struct kvm_vcpu *vcpu,
				       struct kvm_page_fault *fault, kvm_pfn_t pfn)
{
	if (kvm_views_on(vcpu))
		__kvm_views_map_other(vcpu, fault, pfn);
}

/* ACC_* that the view of @sp leaves to @gfn. */
static inline unsigned int kvm_views_spte_access(struct kvm_vcpu *vcpu,
						 struct kvm_mmu_page *sp, gfn_t gfn)
{
	return unlikely(sp->role.view) ?
	       __kvm_views_spte_access(vcpu->kvm, sp->role.view - 1, gfn) : ACC_ALL;
}

/*
 * The suppress-#VE bit, if it has to be clear. Guest RAM in the shadow view is
 * read-only, so KVM itself never needs a fault there on a present entry.
 */
static inline u64 kvm_views_spte_ve(struct kvm_vcpu *vcpu,
				    struct kvm_mmu_page *sp, gfn_t gfn)
{
	return unlikely(sp->role.view == KVM_VIEWS_SHADOW + 1) ?
	       __kvm_views_spte_ve(vcpu->kvm, gfn) : 0;
}

/* Does EPT know entries that may be executed but not read? */
static inline bool kvm_views_execute_only(void)
{
	return !(shadow_present_mask & VMX_EPT_READABLE_MASK);
}

#else /* !CONFIG_KVM_VIEWS */

static inline union kvm_mmu_page_role
kvm_views_role(struct kvm_vcpu *vcpu, union kvm_mmu_page_role role)
{
	return role;
}

static inline void kvm_views_alloc_root(struct kvm_vcpu *vcpu) { }
static inline void kvm_views_free_root(struct kvm *kvm, struct kvm_mmu *mmu) { }
static inline int kvm_views_fault(struct kvm_vcpu *vcpu,
				  struct kvm_page_fault *fault)
{
	return RET_PF_CONTINUE;
}

static inline bool kvm_views_faultin_region(struct kvm_vcpu *vcpu,
					    struct kvm_page_fault *fault)
{
	return false;
}

static inline void kvm_views_limit_level(struct kvm_vcpu *vcpu,
					 struct kvm_page_fault *fault) { }
static inline void kvm_views_map_other(struct kvm_vcpu *vcpu,
				       struct kvm_page_fault *fault, kvm_pfn_t pfn) { }
static inline unsigned int kvm_views_spte_access(struct kvm_vcpu *vcpu,
						 struct kvm_mmu_page *sp, gfn_t gfn)
{
	return ACC_ALL;
}

static inline u64 kvm_views_spte_ve(struct kvm_vcpu *vcpu,
				    struct kvm_mmu_page *sp, gfn_t gfn)
{
	return 0;
}

static inline bool kvm_views_execute_only(void) { return false; }

#endif
#endif
