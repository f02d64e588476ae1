// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the address range that a module in the guest offers for the compartment
 * (guest_offer.h). One offer is kept per VM, also while nobody has views of it: the
 * guest's module is usually loaded before a monitor comes. It is the guest's word:
 * nothing here follows it anywhere, and nothing is logged that the guest could repeat.
 */
#include <linux/kvm_host.h>

#include "views/internal.h"
#include "x86.h"

/* Made by the VM's first offer, kept until the VM is gone. */
struct kvm_views_kept_offer {
	spinlock_t lock;		/* the next one */
	struct kvm_views_offer offer;	/* version 0: there is none */
};

static struct kvm_views_kept_offer *views_kept_offer(struct kvm *kvm)
{
	/* Pairs with views_make_kept_offer(). */
	return smp_load_acquire(&kvm->arch.views_offer);
}

/* vCPUs may come at once; kvm->lock is not for them, it is outside of vcpu->mutex. */
static struct kvm_views_kept_offer *views_make_kept_offer(struct kvm *kvm)
{
	struct kvm_views_kept_offer *kept = views_kept_offer(kvm), *other;

	if (kept)
		return kept;

	kept = kzalloc(sizeof(*kept), GFP_KERNEL_ACCOUNT);
	if (!kept)
		return NULL;
	spin_lock_init(&kept->lock);
	other = cmpxchg(&kvm->arch.views_offer, NULL, kept);
	if (other) {
		kfree(kept);
		kept = other;
	}
	return kept;
}

static bool views_anyone_armed(struct kvm *kvm)
{
	/* Pairs with views_of(). */
	struct kvm_views *views = smp_load_acquire(&kvm->arch.views);

	return views && READ_ONCE(views->armed);
}

static unsigned long views_take_offer(struct kvm_vcpu *vcpu, gva_t gva, unsigned long size,
				      gpa_t entry)
{
	struct kvm_views_kept_offer *kept;

	if (!size || !PAGE_ALIGNED(gva) || !PAGE_ALIGNED(size) || gva + size - 1 < gva ||
	    is_noncanonical_address(gva, vcpu, 0) ||
	    is_noncanonical_address(gva + size - 1, vcpu, 0) ||
	    !IS_ALIGNED(entry, sizeof(u64)) || !kvm_is_visible_gfn(vcpu->kvm, gpa_to_gfn(entry)))
		return -KVM_EINVAL;
	if (views_anyone_armed(vcpu->kvm))
		return -EBUSY;

	kept = views_make_kept_offer(vcpu->kvm);
	if (!kept)
		return -ENOMEM;
	spin_lock(&kept->lock);
	kept->offer.version = SM_OFFER_VERSION;
	kept->offer.gva = gva;
	kept->offer.size = size;
	kept->offer.entry_gpa = entry;
	spin_unlock(&kept->lock);
	return 0;
}

static bool views_drop_offer(struct kvm *kvm)
{
	struct kvm_views_kept_offer *kept = views_kept_offer(kvm);
	bool was;

	if (!kept)
		return false;

	spin_lock(&kept->lock);
	was = kept->offer.version;
	memset(&kept->offer, 0, sizeof(kept->offer));
	spin_unlock(&kept->lock);
	return was;
}

/* In ring 0 of the guest, within kvm->srcu. */
unsigned long __kvm_views_hypercall(struct kvm_vcpu *vcpu, unsigned long operation,
				    gva_t gva, unsigned long size, gpa_t entry)
{
	/* On this CPU no monitor can come. */
	if (!kvm_views_ops)
		return -KVM_ENOSYS;
	if (!is_64_bit_hypercall(vcpu))
		return -KVM_EINVAL;
	if (operation >> SM_HYPERCALL_OPERATION_BITS != SM_OFFER_VERSION)
		return -KVM_EOPNOTSUPP;

	switch (operation) {
	case SM_HYPERCALL_OFFER:
		return views_take_offer(vcpu, gva, size, entry);
	case SM_HYPERCALL_WITHDRAW:
		if (gva || size || entry)
			return -KVM_EINVAL;
		if (views_anyone_armed(vcpu->kvm))
			return -EBUSY;
		return views_drop_offer(vcpu->kvm) ? 0 : -ENOENT;
	default:
		return -KVM_EINVAL;
	}
}

/* A reset of the boot vCPU is the end of whoever made the offer. */
void kvm_views_forget_offer(struct kvm_vcpu *vcpu)
{
	if (kvm_vcpu_is_reset_bsp(vcpu))
		views_drop_offer(vcpu->kvm);
}

void kvm_views_get_offer(struct kvm *kvm, struct kvm_views_offer *arg)
{
	struct kvm_views_kept_offer *kept = views_kept_offer(kvm);

	memset(arg, 0, sizeof(*arg));
	if (!kept)
		return;

	spin_lock(&kept->lock);
	*arg = kept->offer;
	spin_unlock(&kept->lock);
}

void kvm_views_free_offer(struct kvm *kvm)
{
	kfree(kvm->arch.views_offer);
	kvm->arch.views_offer = NULL;
}
