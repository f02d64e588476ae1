// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: hooks that are CALLs. A CALL comes with the guest's IF, so an interrupt
 * may arrive in the compartment before interrupts are off there. Its frame leads back
 * into the compartment, wherever RIP is meanwhile. When CALLs have gone, each vCPU is
 * taken to have such a frame until it is seen outside with none: in user mode, halted
 * or reset. That holds for guests that do not schedule on the way out of an interrupt
 * of kernel code; the owner puts CALLs into no other.
 */
#include <linux/kvm_host.h>

#include "views/internal.h"

/* The world is stopped, and what the CALLs replaced is in place. */
void kvm_views_mark_returns(struct kvm_views *views)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	lockdep_assert_held(&views->lock);

	if (!views->calls_gone)
		return;

	views->calls_gone = false;
	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		struct kvm_vcpu_views *v = vcpu->arch.views;

		/* Without views it has not run since there are hooks. */
		WRITE_ONCE(v->may_return, READ_ONCE(v->on));
	}
}

/* Waits for an interrupt or for its start: that stays so until it runs again. */
static bool views_is_idle(struct kvm_vcpu *vcpu)
{
	switch (READ_ONCE(vcpu->arch.mp_state)) {
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
		return true;
	}
	return false;
}

/* The vCPU is loaded. */
static bool views_in_user_mode(struct kvm_vcpu *vcpu)
{
	return kvm_x86_call(get_cpl)(vcpu) == 3;
}

/*
 * The vCPU is not in KVM_RUN, it may be paused, and nobody else uses it. Its mutex is
 * only tried: a vCPU that stands still holds it, and waits for who has views->lock.
 */
static bool views_left_in_user_mode(struct kvm_vcpu *vcpu)
{
	bool user;

	if (!mutex_trylock(&vcpu->mutex))
		return false;

	vcpu_load(vcpu);
	user = views_in_user_mode(vcpu);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return user;
}

/* On the vCPU's thread, between two entries. */
void kvm_views_note_return(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	if (v->may_return && !v->inside && views_in_user_mode(vcpu))
		WRITE_ONCE(v->may_return, false);
}

/*
 * On another thread. With views->lock nobody marks the vCPU anew at the same time:
 * what is seen here is later than the mark.
 */
bool kvm_views_may_return(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	lockdep_assert_held(&vcpu->kvm->arch.views->lock);

	if (!READ_ONCE(v->may_return))
		return false;
	if (READ_ONCE(v->inside))
		return true;
	if (!views_is_idle(vcpu) && !views_left_in_user_mode(vcpu))
		return true;

	WRITE_ONCE(v->may_return, false);
	return false;
}
