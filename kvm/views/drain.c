// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the way out. Hooks go first, so that nobody enters the compartment
 * any more. vCPUs that are inside run on until they have left it, the last
 * steps are taken when all are outside and, if there were CALLs among the hooks, none
 * can return there (calls.c). All of it is done by a work item, which
 * vCPUs on their way into the guest queue again while the drain lasts: the owner
 * may be dying, and nothing that can be killed may restore guest memory. A vCPU
 * that its VMM keeps paused inside delays the end, but nobody who closes the fd
 * waits for it.
 */
#include <linux/kvm_host.h>

#include "views/internal.h"
#include "views/views_mmu.h"

/* How often to look at a vCPU that is waited for, while its VMM runs it and while not. */
#define VIEWS_RUNNING_POLL	DIV_ROUND_UP(HZ, 50)
#define VIEWS_PAUSED_POLL	HZ

static bool views_anyone_inside(struct kvm_views *views)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		if (READ_ONCE(vcpu->arch.views->inside))
			return true;
	}
	return false;
}

/*
 * Leaving the compartment makes no exit, so vCPUs inside are made to exit. Each
 * of them queues the work again on its way back into the guest, a tick later if
 * it is still inside. It can also go to its VMM instead, outside by then, and one that
 * may return can halt: the work looks for itself, too. Returns false if there is none.
 */
static bool views_kick_inside(struct kvm_views *views)
{
	unsigned long i, poll = 0;
	struct kvm_vcpu *vcpu;

	kvm_for_each_vcpu(i, vcpu, views->kvm) {
		if (!kvm_views_may_return(vcpu) && !READ_ONCE(vcpu->arch.views->inside))
			continue;
		kvm_make_request(KVM_REQ_VIEWS, vcpu);
		kvm_vcpu_kick(vcpu);

		if (mutex_is_locked(&vcpu->mutex))
			poll = VIEWS_RUNNING_POLL;
		else if (!poll)
			poll = VIEWS_PAUSED_POLL;
	}

	/* If a vCPU has queued it for earlier, that stands. */
	if (poll)
		queue_delayed_work(system_wq, &views->drain, poll);
	return poll;
}

/*
 * On the thread of a vCPU that has been made to exit. Earlier than the work would look
 * for itself.
 */
void kvm_views_hasten_drain(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_vcpu_views *v = vcpu->arch.views;

	if (READ_ONCE(views->state) == KVM_VIEWS_STATE_DRAINING)
		mod_delayed_work(system_wq, &views->drain, v->inside || v->may_return);
}

/* All vCPUs are outside and none has views any more. */
static void views_finish(struct kvm_views *views)
{
	struct kvm *kvm = views->kvm;

	mutex_lock(&kvm->slots_lock);
	kvm_mmu_zap_all_fast(kvm);
	mutex_unlock(&kvm->slots_lock);

	xa_destroy(&views->overrides);
	xa_destroy(&views->hidden);
	if (!views->attached)
		kvm_views_free_region(views);

	views->state = KVM_VIEWS_STATE_IDLE;
	wake_up_all(&views->wait);
}

/* With the world stopped: the end, if all are outside. */
static bool views_try_end(struct kvm_views *views)
{
	bool inside;

	kvm_views_stop_world(views);
	inside = views_anyone_inside(views);
	if (!inside) {
		kvm_views_restore(views, false);
		views->armed = false;
	}
	kvm_views_resume_world(views);
	return !inside;
}

static void views_drain_step(struct kvm_views *views)
{
	if (!views->hooks_restored) {
		kvm_views_stop_world(views);
		kvm_views_restore(views, true);
		views->hooks_restored = true;
		kvm_views_resume_world(views);
	}

	do {
		if (views_kick_inside(views))
			return;
	} while (!views_try_end(views));

	views_finish(views);
}

void kvm_views_drain_work(struct work_struct *work)
{
	struct kvm_views *views = container_of(to_delayed_work(work), struct kvm_views,
					       drain);

	mutex_lock(&views->lock);
	if (views->state == KVM_VIEWS_STATE_DRAINING)
		views_drain_step(views);
	mutex_unlock(&views->lock);
}

void kvm_views_start_drain(struct kvm_views *views)
{
	lockdep_assert_held(&views->lock);

	if (views->state != KVM_VIEWS_STATE_ENABLED)
		return;

	WRITE_ONCE(views->state, KVM_VIEWS_STATE_DRAINING);
	mod_delayed_work(system_wq, &views->drain, 0);
}

/* The views fd is closed. */
void kvm_views_detach(struct kvm_views *views)
{
	mutex_lock(&views->lock);
	WRITE_ONCE(views->attached, false);
	kvm_views_clear_events(views);
	kvm_views_start_drain(views);
	if (views->state == KVM_VIEWS_STATE_IDLE) {
		xa_destroy(&views->overrides);
		kvm_views_free_region(views);
	}
	/* Parked vCPUs look at @attached. */
	wake_up_all(&views->wait);
	mutex_unlock(&views->lock);
}

int kvm_views_disable(struct kvm_views *views)
{
	mutex_lock(&views->lock);
	kvm_views_start_drain(views);
	mutex_unlock(&views->lock);

	return wait_event_interruptible(views->wait, READ_ONCE(views->state) !=
						     KVM_VIEWS_STATE_DRAINING) ? -EINTR : 0;
}
