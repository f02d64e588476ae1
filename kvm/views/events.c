// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the queue of events that the owner reads from the views fd. A
 * guest can make events faster than anybody reads them: what does not fit is
 * counted and dropped.
 */
#include <linux/kvm_host.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>

#include "kvm_cache_regs.h"
#include "views/internal.h"
#include "x86.h"

int kvm_views_init_events(struct kvm_views *views)
{
	spin_lock_init(&views->events_lock);
	init_waitqueue_head(&views->events_wait);
	views->events = kvcalloc(VIEWS_NR_EVENTS, sizeof(*views->events),
				 GFP_KERNEL_ACCOUNT);
	return views->events ? 0 : -ENOMEM;
}

void kvm_views_clear_events(struct kvm_views *views)
{
	spin_lock(&views->events_lock);
	views->events_head = 0;
	views->events_tail = 0;
	spin_unlock(&views->events_lock);
}

/* False: the queue is full, or there is no one to read it. */
bool kvm_views_queue(struct kvm_views *views, const struct kvm_views_event *event)
{
	bool queued = false;

	spin_lock(&views->events_lock);
	if (READ_ONCE(views->attached) &&
	    views->events_head - views->events_tail < VIEWS_NR_EVENTS) {
		views->events[views->events_head++ % VIEWS_NR_EVENTS] = *event;
		queued = true;
	}
	spin_unlock(&views->events_lock);

	if (queued)
		wake_up_interruptible(&views->events_wait);
	else
		atomic64_inc(&views->events_lost);
	return queued;
}

void kvm_views_queue_slot_event(struct kvm_views *views,
				const struct kvm_memory_slot *slot)
{
	struct kvm_views_event event = {
		.type = KVM_VIEWS_EVENT_SLOT,
		.vcpu_id = ~0u,
		.gpa = gfn_to_gpa(slot->base_gfn),
		.arg = (u64)slot->npages << PAGE_SHIFT,
	};

	kvm_views_queue(views, &event);
}

/* On the vCPU's thread. */
void kvm_views_fill_event(struct kvm_vcpu *vcpu, struct kvm_views_event *event, u32 type,
			  u32 access, gpa_t gpa, gva_t gva, u64 arg)
{
	*event = (struct kvm_views_event) {
		.type = type,
		.vcpu_id = vcpu->vcpu_id,
		.view = vcpu->arch.views->view,
		.access = access,
		.gpa = gpa,
		.gva = gva,
		.rip = kvm_rip_read(vcpu),
		.cr3 = kvm_read_cr3(vcpu),
		.arg = arg,
		.tsc = kvm_read_l1_tsc(vcpu, rdtsc()),
	};
}

bool kvm_views_queue_event(struct kvm_vcpu *vcpu, u32 type, u32 access, gpa_t gpa,
			   gva_t gva, u64 arg)
{
	struct kvm_views_event event;

	kvm_views_fill_event(vcpu, &event, type, access, gpa, gva, arg);
	return kvm_views_queue(vcpu->kvm->arch.views, &event);
}

void kvm_views_report(struct kvm_vcpu *vcpu, u32 type, u64 arg)
{
	struct kvm_views *views = vcpu->kvm->arch.views;

	if (type == KVM_VIEWS_EVENT_BAD_VMFUNC)
		atomic64_inc(&views->bad_vmfunc);
	kvm_views_queue_event(vcpu, type, 0, 0, 0, arg);
}
EXPORT_SYMBOL_GPL(kvm_views_report);

static bool views_take_event(struct kvm_views *views, struct kvm_views_event *event)
{
	bool taken = false;

	spin_lock(&views->events_lock);
	if (views->events_head != views->events_tail) {
		*event = views->events[views->events_tail++ % VIEWS_NR_EVENTS];
		taken = true;
	}
	spin_unlock(&views->events_lock);
	return taken;
}

static bool views_have_events(struct kvm_views *views)
{
	return READ_ONCE(views->events_head) != READ_ONCE(views->events_tail);
}

ssize_t kvm_views_read_events(struct kvm_views *views, char __user *buf, size_t len,
			      bool nonblock)
{
	struct kvm_views_event event;
	ssize_t done = 0;
	int r;

	if (len < sizeof(event))
		return -EINVAL;

	while (len - done >= sizeof(event)) {
		if (!views_take_event(views, &event)) {
			if (done || READ_ONCE(views->gone))
				break;
			if (nonblock)
				return -EAGAIN;
			r = wait_event_interruptible(views->events_wait,
						     views_have_events(views) ||
						     READ_ONCE(views->gone));
			if (r)
				return r;
			continue;
		}
		if (copy_to_user(buf + done, &event, sizeof(event)))
			return done ? done : -EFAULT;
		done += sizeof(event);
	}
	return done;
}

__poll_t kvm_views_poll_events(struct kvm_views *views, struct file *file,
			       poll_table *table)
{
	__poll_t mask = 0;

	poll_wait(file, &views->events_wait, table);
	if (views_have_events(views))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(views->gone))
		mask |= EPOLLHUP;
	return mask;
}
