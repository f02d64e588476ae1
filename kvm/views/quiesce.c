// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: has everybody left what a removed hook led to? A patch, made while
 * the world stood still, marks the vCPUs that were inside the compartment; each
 * takes its mark off at the first exit that finds it outside. If CALLs have gone with
 * the patch, a vCPU outside may still return to the compartment, see calls.c.
 */
#include <linux/kvm_host.h>

#include "views/internal.h"

/* A guest can stay inside for ever, and a VMM can leave a vCPU there. */
#define VIEWS_QUIESCE_LIMIT	HZ
#define VIEWS_PAUSED_LIMIT	DIV_ROUND_UP(HZ, 10)

/* The world is stopped. Returns how many vCPUs there are to wait for. */
u32 kvm_views_mark_lingering(struct kvm_views *views)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	u32 nr = 0;

	lockdep_assert_held(&views->lock);

	kvm_views_mark_returns(views);
	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		struct kvm_vcpu_views *v = vcpu->arch.views;

		WRITE_ONCE(v->lingers, READ_ONCE(v->inside));
		nr += v->lingers || kvm_views_may_return(vcpu);
	}
	return nr;
}

static bool views_marked(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	return READ_ONCE(v->lingers) || READ_ONCE(v->may_return);
}

/* As views_marked(), after another look at a vCPU that may return. */
static bool views_waits_for(struct kvm_views *views, struct kvm_vcpu *vcpu)
{
	if (READ_ONCE(vcpu->arch.views->may_return)) {
		mutex_lock(&views->lock);
		kvm_views_may_return(vcpu);
		mutex_unlock(&views->lock);
	}
	return views_marked(vcpu);
}

/* In KVM_RUN, or in another ioctl on the vCPU, and not waiting for the owner. */
static bool views_gets_on(struct kvm_vcpu *vcpu)
{
	return mutex_is_locked(&vcpu->mutex) && !READ_ONCE(vcpu->arch.views->parked);
}

/* Leaving the compartment makes no exit: look again at each tick. */
static int views_wait_outside(struct kvm_views *views, struct kvm_vcpu *vcpu,
			      unsigned long limit)
{
	unsigned long paused = 0;
	long r;

	while (views_waits_for(views, vcpu)) {
		if (time_after(jiffies, limit) || paused > VIEWS_PAUSED_LIMIT)
			return -EAGAIN;
		if (views_gets_on(vcpu))
			paused = 0;
		else
			paused++;

		kvm_make_request(KVM_REQ_VIEWS, vcpu);
		kvm_vcpu_kick(vcpu);
		r = wait_event_interruptible_timeout(views->wait, !views_marked(vcpu), 1);
		if (r < 0)
			return -EINTR;
	}
	return 0;
}

/* Has whom it would wait for make an exit, so that another look finds them outside. */
static int views_look_outside(struct kvm_views *views)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int r = 0;

	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		if (!views_waits_for(views, vcpu))
			continue;
		kvm_make_request(KVM_REQ_VIEWS, vcpu);
		kvm_vcpu_kick(vcpu);
		r = -EAGAIN;
	}
	return r;
}

int kvm_views_quiesce(struct kvm_views *views, unsigned long how)
{
	unsigned long limit = jiffies + VIEWS_QUIESCE_LIMIT;
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int r;

	if (how == KVM_VIEWS_QUIESCE_LOOK)
		return views_look_outside(views);
	if (how)
		return -EINVAL;

	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		r = views_wait_outside(views, vcpu, limit);
		if (r)
			return r;
	}
	return 0;
}
