// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the operations of a views fd. It does not keep the VM alive: each
 * operation takes a reference for as long as it lasts, -ENODEV if there is no
 * VM any more.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>

#include "views/internal.h"

static void views_get_stats(struct kvm_views *views, struct kvm_views_stats *stats)
{
	stats->exits = kvm_views_exits(views->kvm) - views->exits_before;
	stats->switches = atomic64_read(&views->switches);
	stats->violations = atomic64_read(&views->violations);
	stats->bad_vmfunc = atomic64_read(&views->bad_vmfunc);
	stats->calls = atomic64_read(&views->calls);
	stats->region_faults = atomic64_read(&views->region_faults);
	stats->events_lost = atomic64_read(&views->events_lost);
	stats->undo_entries = atomic64_read(&views->undo_entries);
	stats->undo_conflicts = atomic64_read(&views->undo_conflicts);
	stats->ve_injected = atomic64_read(&views->ve_injected);
	stats->hidden_reads = atomic64_read(&views->hidden_reads);
	stats->hidden_writes = atomic64_read(&views->hidden_writes);
	stats->exposed = atomic64_read(&views->exposed);
	stats->overwritten = atomic64_read(&views->overwritten);
}

static long views_query(struct kvm_views *views, unsigned int ioctl, void __user *argp)
{
	union {
		struct kvm_views_info info;
		struct kvm_views_slots slots;
		struct kvm_views_mem mem;
		struct kvm_views_vcpu vcpu;
		struct kvm_views_stats stats;
		struct kvm_views_offer offer;
	} u = { };
	size_t size = _IOC_SIZE(ioctl);
	long r = 0;

	if ((_IOC_DIR(ioctl) & _IOC_WRITE) && copy_from_user(&u, argp, size))
		return -EFAULT;

	switch (ioctl) {
	case KVM_VIEWS_GET_INFO:
		kvm_views_get_info(views, &u.info);
		break;
	case KVM_VIEWS_GET_SLOTS:
		r = kvm_views_get_slots(views->kvm, &u.slots);
		break;
	case KVM_VIEWS_READ_MEM:
		r = kvm_views_read_mem(views->kvm, &u.mem);
		break;
	case KVM_VIEWS_GET_VCPU:
		r = kvm_views_get_vcpu(views, &u.vcpu);
		break;
	case KVM_VIEWS_GET_STATS:
		views_get_stats(views, &u.stats);
		break;
	case KVM_VIEWS_GET_OFFER:
		kvm_views_get_offer(views->kvm, &u.offer);
		break;
	}

	if (copy_to_user(argp, &u, size))
		return -EFAULT;
	return r;
}

static long views_change(struct kvm_views *views, unsigned int ioctl, void __user *argp)
{
	union {
		struct kvm_views_region region;
		struct kvm_views_protect protect;
		struct kvm_views_enable enable;
		struct kvm_views_resume resume;
	} u;

	if (copy_from_user(&u, argp, _IOC_SIZE(ioctl)))
		return -EFAULT;

	switch (ioctl) {
	case KVM_VIEWS_SET_REGION:
		return kvm_views_set_region(views, &u.region);
	case KVM_VIEWS_PROTECT:
		return kvm_views_protect(views, &u.protect);
	case KVM_VIEWS_ENABLE:
		return kvm_views_enable(views, &u.enable);
	case KVM_VIEWS_RESUME:
		return kvm_views_resume_vcpu(views, &u.resume);
	}
	return -ENOTTY;
}

static long views_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	struct kvm_views *views = file->private_data;
	void __user *argp = (void __user *)arg;
	struct kvm *kvm = kvm_views_get_kvm(views);
	long r;

	if (!kvm)
		return -ENODEV;

	switch (ioctl) {
	case KVM_VIEWS_GET_INFO:
	case KVM_VIEWS_GET_SLOTS:
	case KVM_VIEWS_READ_MEM:
	case KVM_VIEWS_GET_VCPU:
	case KVM_VIEWS_GET_STATS:
	case KVM_VIEWS_GET_OFFER:
		r = views_query(views, ioctl, argp);
		break;
	case KVM_VIEWS_SET_REGION:
	case KVM_VIEWS_PROTECT:
	case KVM_VIEWS_ENABLE:
	case KVM_VIEWS_RESUME:
		r = views_change(views, ioctl, argp);
		break;
	case KVM_VIEWS_PATCH:
		r = kvm_views_patch(views, argp);
		break;
	case KVM_VIEWS_QUIESCE:
		r = kvm_views_quiesce(views, arg);
		break;
	case KVM_VIEWS_DISABLE:
		r = kvm_views_disable(views);
		break;
	default:
		r = -ENOTTY;
		break;
	}
	kvm_put_kvm(kvm);
	return r;
}

static ssize_t views_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	return kvm_views_read_events(file->private_data, buf, len,
				     file->f_flags & O_NONBLOCK);
}

static __poll_t views_poll(struct file *file, poll_table *table)
{
	return kvm_views_poll_events(file->private_data, file, table);
}

static int views_mmap(struct file *file, struct vm_area_struct *vma)
{
	return kvm_views_map_region(file->private_data, vma);
}

static int views_release(struct inode *inode, struct file *file)
{
	struct kvm_views *views = file->private_data;
	struct kvm *kvm = kvm_views_get_kvm(views);

	if (kvm) {
		kvm_views_detach(views);
		kvm_put_kvm(kvm);
	}
	kvm_views_put(views);
	return 0;
}

static struct file_operations views_fops = {
	.unlocked_ioctl = views_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = views_read,
	.poll = views_poll,
	.mmap = views_mmap,
	.release = views_release,
	.llseek = noop_llseek,
};

int kvm_views_make_fd(struct kvm_views *views)
{
	/* The vendor module must stay as long as there may be a VM to give up. */
	views_fops.owner = kvm_views_ops->owner;
	return anon_inode_getfd("kvm-views", &views_fops, views, O_RDWR | O_CLOEXEC);
}
