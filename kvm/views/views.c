// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the life of a VM's views from KVM_VIEWS_CREATE to the end of the VM.
 */
#include <linux/file.h>
#include <linux/kvm_host.h>

#include "views/internal.h"
#include "views/views_mmu.h"

const struct kvm_views_ops *kvm_views_ops;

void kvm_views_set_ops(const struct kvm_views_ops *ops)
{
	kvm_views_ops = ops;
}
EXPORT_SYMBOL_GPL(kvm_views_set_ops);

static const struct {
	u32 bit;
	const char *name;
} views_hardware[] = {
	{ KVM_VIEWS_HW_EPT, "extended page tables (EPT)" },
	{ KVM_VIEWS_HW_TDP_MMU, "the TDP MMU (kvm.tdp_mmu)" },
	{ KVM_VIEWS_HW_EPTP_SWITCHING, "VMFUNC EPTP switching" },
	{ KVM_VIEWS_HW_EXEC_ONLY, "execute-only EPT entries" },
	{ KVM_VIEWS_HW_VE, "EPT-violation #VE" },
};

static u32 views_probe(void)
{
	u32 hardware;

	if (!kvm_views_ops)
		return 0;

	hardware = kvm_views_ops->hardware();
	if (tdp_mmu_enabled)
		hardware |= KVM_VIEWS_HW_TDP_MMU;
	return hardware;
}

/* Names, once each, the pieces of @want that this machine lacks. */
static bool views_have_hardware(u32 want)
{
	static unsigned long logged;
	u32 missing = want & ~views_probe();
	int i;

	for (i = 0; i < ARRAY_SIZE(views_hardware); i++) {
		if ((missing & views_hardware[i].bit) &&
		    !test_and_set_bit(i, &logged))
			pr_info("not available: this machine lacks %s\n",
				views_hardware[i].name);
	}
	return !missing;
}

struct kvm *kvm_views_get_kvm(struct kvm_views *views)
{
	struct kvm *kvm;

	spin_lock(&views->kvm_lock);
	kvm = views->kvm;
	if (kvm && !kvm_get_kvm_safe(kvm))
		kvm = NULL;
	spin_unlock(&views->kvm_lock);
	return kvm;
}

static void views_free(struct kref *ref)
{
	struct kvm_views *views = container_of(ref, struct kvm_views, ref);

	kvfree(views->events);
	kfree(views);
}

void kvm_views_put(struct kvm_views *views)
{
	kref_put(&views->ref, views_free);
}

static struct kvm_views *views_alloc(struct kvm *kvm)
{
	struct kvm_views *views = kzalloc(sizeof(*views), GFP_KERNEL_ACCOUNT);

	if (!views)
		return NULL;

	kref_init(&views->ref);
	spin_lock_init(&views->kvm_lock);
	mutex_init(&views->lock);
	mutex_init(&views->snapshot_lock);
	mutex_init(&views->premap_lock);
	init_waitqueue_head(&views->wait);
	xa_init(&views->overrides);
	init_rwsem(&views->undo_sem);
	xa_init(&views->undo);
	xa_init(&views->hidden);
	xa_init(&views->dirty);
	INIT_DELAYED_WORK(&views->drain, kvm_views_drain_work);
	INIT_DELAYED_WORK(&views->rehide, kvm_views_rehide_work);
	INIT_WORK(&views->retire, kvm_views_retire_work);
	views->kvm = kvm;
	if (kvm_views_init_events(views)) {
		kfree(views);
		return NULL;
	}
	return views;
}

static struct kvm_views *views_of(struct kvm *kvm)
{
	struct kvm_views *views;

	mutex_lock(&kvm->lock);
	views = kvm->arch.views;
	if (!views) {
		views = views_alloc(kvm);
		/* vCPUs read it without a lock. */
		smp_store_release(&kvm->arch.views, views);
	}
	mutex_unlock(&kvm->lock);
	return views;
}

bool kvm_views_nested(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (kvm_views_ops->nested(vcpu))
			return true;
	}
	return false;
}

/* A VMM may set the state that a vCPU has without nested virtualization, no other. */
bool kvm_views_refuse_nested(struct kvm_vcpu *vcpu, const struct kvm_nested_state *state)
{
	/* Pairs with views_of(). */
	struct kvm_views *views = smp_load_acquire(&vcpu->kvm->arch.views);

	return views && READ_ONCE(views->armed) &&
	       state->format == KVM_STATE_NESTED_FORMAT_VMX &&
	       state->hdr.vmx.vmxon_pa != INVALID_GPA;
}

u64 kvm_views_exits(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	u64 exits = 0;

	kvm_for_each_vcpu(i, vcpu, kvm)
		exits += vcpu->stat.exits;
	return exits;
}

static int views_attach(struct kvm *kvm)
{
	struct kvm_views *views;
	int fd;

	if (kvm->arch.vm_type != KVM_X86_DEFAULT_VM || kvm->arch.has_protected_state) {
		pr_info_once("not available for confidential VMs\n");
		return -EOPNOTSUPP;
	}
	if (kvm_views_nested(kvm)) {
		pr_info_once("not available while a vCPU is in VMX operation\n");
		return -EOPNOTSUPP;
	}

	views = views_of(kvm);
	if (!views)
		return -ENOMEM;

	mutex_lock(&views->lock);
	if (views->attached || views->state != KVM_VIEWS_STATE_IDLE) {
		fd = -EEXIST;
		goto out;
	}

	kvm_views_clear_events(views);
	views->exits_before = kvm_views_exits(kvm);
	atomic64_set(&views->switches, 0);
	atomic64_set(&views->violations, 0);
	atomic64_set(&views->bad_vmfunc, 0);
	atomic64_set(&views->calls, 0);
	atomic64_set(&views->region_faults, 0);
	atomic64_set(&views->events_lost, 0);
	atomic64_set(&views->undo_conflicts, 0);
	atomic64_set(&views->ve_injected, 0);
	atomic64_set(&views->hidden_reads, 0);
	atomic64_set(&views->hidden_writes, 0);
	atomic64_set(&views->exposed, 0);
	atomic64_set(&views->overwritten, 0);

	/* The fd may be closed by another thread at once: set up all before. */
	views->attached = true;
	kref_get(&views->ref);
	fd = kvm_views_make_fd(views);
	if (fd < 0) {
		views->attached = false;
		kvm_views_put(views);
	}
out:
	mutex_unlock(&views->lock);
	return fd;
}

static long views_create(void __user *argp)
{
	struct kvm_views_create arg;
	struct file *file;
	struct kvm *kvm;
	long r;

	if (copy_from_user(&arg, argp, sizeof(arg)))
		return -EFAULT;
	if (arg.version != KVM_VIEWS_API_VERSION)
		return -EPROTO;
	if (arg.flags || arg.pad || memchr_inv(arg.reserved, 0, sizeof(arg.reserved)))
		return -EINVAL;

	file = fget(arg.vm_fd);
	if (!file)
		return -EBADF;
	if (!file_is_kvm(file)) {
		fput(file);
		return -EINVAL;
	}
	kvm = file->private_data;
	kvm_get_kvm(kvm);
	fput(file);

	r = -EOPNOTSUPP;
	if (views_have_hardware(KVM_VIEWS_HW_REQUIRED))
		r = views_attach(kvm);

	kvm_put_kvm(kvm);
	return r;
}

long kvm_views_dev_ioctl(unsigned int ioctl, void __user *argp)
{
	struct kvm_views_probe probe = {
		.version = KVM_VIEWS_API_VERSION,
	};

	switch (ioctl) {
	case KVM_VIEWS_PROBE:
		probe.hardware = views_probe();
		return copy_to_user(argp, &probe, sizeof(probe)) ? -EFAULT : 0;
	case KVM_VIEWS_CREATE:
		return views_create(argp);
	}
	return -EINVAL;
}

int kvm_views_enable(struct kvm_views *views, struct kvm_views_enable *arg)
{
	struct kvm *kvm = views->kvm;
	struct kvm_views_area *area;
	int r = 0;

	if (arg->flags & ~KVM_VIEWS_ENABLE_VE ||
	    memchr_inv(arg->reserved, 0, sizeof(arg->reserved)) ||
	    arg->gate_gva + arg->gate_len < arg->gate_gva)
		return -EINVAL;
	if ((arg->flags & KVM_VIEWS_ENABLE_VE) && !views_have_hardware(KVM_VIEWS_HW_VE))
		return -EOPNOTSUPP;

	mutex_lock(&views->lock);
	if (views->state != KVM_VIEWS_STATE_IDLE) {
		r = -EBUSY;
		goto out;
	}
	area = kvm_views_area(views);
	if ((arg->flags & KVM_VIEWS_ENABLE_VE) &&
	    (!area || arg->ve_page >= area->pages->nr)) {
		r = -EINVAL;
		goto out;
	}

	/*
	 * A vCPU that is being created comes with a request for its first entry.
	 * kvm->lock orders that against the request that all others get here.
	 */
	mutex_lock(&kvm->lock);
	kvm_views_stop_world(views);
	if (kvm_views_nested(kvm)) {
		pr_info_once("not available while a vCPU is in VMX operation\n");
		r = -EOPNOTSUPP;
	} else {
		views->ve = arg->flags & KVM_VIEWS_ENABLE_VE;
		views->ve_page = arg->ve_page;
		views->gate_gva = arg->gate_gva;
		views->gate_len = arg->gate_len;
		views->hooks_restored = false;
		views->state = KVM_VIEWS_STATE_ENABLED;
		views->armed = true;
	}
	kvm_views_resume_world(views);
	mutex_unlock(&kvm->lock);
out:
	mutex_unlock(&views->lock);
	return r;
}

/* The VMM's memory is gone, or the VM is being destroyed. */
void kvm_views_vm_gone(struct kvm *kvm)
{
	/* Pairs with views_of(). */
	struct kvm_views *views = smp_load_acquire(&kvm->arch.views);

	if (!views)
		return;

	WRITE_ONCE(views->gone, true);
	wake_up_all(&views->events_wait);
}

/* No reference to the VM is left: after this nobody reaches it through its views. */
void kvm_views_stop_vm(struct kvm *kvm)
{
	struct kvm_views *views = kvm->arch.views;

	if (!views)
		return;

	cancel_delayed_work_sync(&views->drain);
	cancel_delayed_work_sync(&views->rehide);
	cancel_work_sync(&views->retire);
	kvm_views_vm_gone(kvm);

	spin_lock(&views->kvm_lock);
	views->kvm = NULL;
	spin_unlock(&views->kvm_lock);
}

void kvm_views_destroy_vm(struct kvm *kvm)
{
	struct kvm_views *views = kvm->arch.views;

	kvm_views_free_offer(kvm);
	if (!views)
		return;

	mutex_lock(&views->lock);
	kvm_views_free_region(views);
	kvm_views_forget_patches(views);
	xa_destroy(&views->overrides);
	views->armed = false;
	views->state = KVM_VIEWS_STATE_IDLE;
	mutex_unlock(&views->lock);

	kvm->arch.views = NULL;
	kvm_views_put(views);
}
