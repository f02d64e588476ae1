// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: stop-the-world. While it lasts no vCPU runs guest code. vCPUs that
 * are halted or in user space are not waited for, they find the request when
 * they want to enter the guest.
 */
#include <linux/kvm_host.h>

#include "views/internal.h"

/*
 * A vCPU's CPU may answer the request before the vCPU's thread has noted where
 * the guest was. That is done when the thread says that it is outside; it gets
 * there without sleeping, because the request keeps it from entering again.
 */
static void views_wait_outside(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		/* Pairs with the barriers around vcpu->mode in vcpu_enter_guest(). */
		while (smp_load_acquire(&vcpu->mode) != OUTSIDE_GUEST_MODE)
			cpu_relax();
	}
}

void kvm_views_stop_world(struct kvm_views *views)
{
	lockdep_assert_held(&views->lock);

	WRITE_ONCE(views->stopped, true);
	kvm_make_all_cpus_request(views->kvm, KVM_REQ_VIEWS);
	views_wait_outside(views->kvm);
}

void kvm_views_resume_world(struct kvm_views *views)
{
	lockdep_assert_held(&views->lock);

	/* Pairs with kvm_views_wait_while(). */
	smp_store_release(&views->stopped, false);
	wake_up_all(&views->wait);
}

/*
 * For KVM_REQ_VIEWS: the vCPU waits until *condition is false, while others may
 * stop the world. Returns 0, or -EINTR if a signal came: the vCPU then has to go
 * back to user space.
 */
int kvm_views_wait_while(struct kvm_vcpu *vcpu, bool *condition)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	int r;

	/* Pairs with whoever clears it: see what was done meanwhile. */
	if (!smp_load_acquire(condition))
		return 0;

	/* Whoever stopped the world may wait for readers of kvm->srcu. */
	kvm_vcpu_srcu_read_unlock(vcpu);
	/* Pairs with the same. */
	r = wait_event_interruptible(views->wait, !smp_load_acquire(condition));
	kvm_vcpu_srcu_read_lock(vcpu);

	if (r) {
		kvm_make_request(KVM_REQ_VIEWS, vcpu);
		vcpu->run->exit_reason = KVM_EXIT_INTR;
		vcpu->stat.signal_exits++;
		return -EINTR;
	}
	return 0;
}
