// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: register state of a vCPU for the owner. It is taken by the vCPU's
 * own thread between two entries, or by the owner's while nobody else has the
 * vCPU. The guest notices nothing, a halted vCPU stays halted.
 */
#include <linux/kvm_host.h>

#include "cpuid.h"
#include "kvm_cache_regs.h"
#include "views/internal.h"
#include "x86.h"

static u64 views_get_msr(struct kvm_vcpu *vcpu, u32 msr)
{
	u64 data = 0;

	return __kvm_get_msr(vcpu, msr, &data, true) ? 0 : data;
}

/* The vCPU is loaded by the caller. */
static void views_fill(struct kvm_vcpu *vcpu, struct kvm_views_vcpu *s)
{
	struct desc_ptr dt;
	unsigned long flags;
	int db, l;

	s->vcpu_id = vcpu->vcpu_id;
	s->flags = 0;
	if (guest_cpuid_has(vcpu, X86_FEATURE_RDTSCP))
		s->flags |= KVM_VIEWS_VCPU_RDTSCP;
	if (kvm_views_ops->nested(vcpu))
		s->flags |= KVM_VIEWS_VCPU_VMXON;
	if (vcpu->arch.mp_state == KVM_MP_STATE_UNINITIALIZED ||
	    vcpu->arch.mp_state == KVM_MP_STATE_INIT_RECEIVED)
		s->flags |= KVM_VIEWS_VCPU_NEVER_RAN;
	s->view = vcpu->arch.views->view;

	s->rip = kvm_rip_read(vcpu);
	s->rsp = kvm_rsp_read(vcpu);
	s->rflags = kvm_get_rflags(vcpu);
	s->cr0 = kvm_read_cr0(vcpu);
	s->cr3 = kvm_read_cr3(vcpu);
	s->cr4 = kvm_read_cr4(vcpu);
	s->efer = vcpu->arch.efer;
	kvm_x86_call(get_idt)(vcpu, &dt);
	s->idt_base = dt.address;
	s->idt_limit = dt.size;
	kvm_x86_call(get_gdt)(vcpu, &dt);
	s->gdt_base = dt.address;
	s->gdt_limit = dt.size;
	s->fs_base = get_segment_base(vcpu, VCPU_SREG_FS);
	s->gs_base = get_segment_base(vcpu, VCPU_SREG_GS);
	s->kernel_gs_base = views_get_msr(vcpu, MSR_KERNEL_GS_BASE);
	s->lstar = views_get_msr(vcpu, MSR_LSTAR);
	s->cpl = kvm_x86_call(get_cpl)(vcpu);
	kvm_x86_call(get_cs_db_l_bits)(vcpu, &db, &l);
	s->cs_long = l;
	s->exits = vcpu->stat.exits;
	s->tsc_khz = vcpu->arch.virtual_tsc_khz;

	local_irq_save(flags);
	s->guest_tsc = kvm_read_l1_tsc(vcpu, rdtsc());
	s->realtime_ns = ktime_get_real_ns();
	local_irq_restore(flags);
}

void __kvm_views_take_snapshot(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	views_fill(vcpu, &v->snapshot);
	/* Pairs with views_snapshot_done(). */
	smp_store_release(&v->snapshot_state, KVM_VIEWS_SNAPSHOT_DONE);
	wake_up_all(&vcpu->kvm->arch.views->wait);
}

static bool views_snapshot_done(struct kvm_vcpu *vcpu)
{
	/* Pairs with __kvm_views_take_snapshot(). */
	return smp_load_acquire(&vcpu->arch.views->snapshot_state) ==
	       KVM_VIEWS_SNAPSHOT_DONE;
}

static bool views_try_snapshot(struct kvm_vcpu *vcpu, struct kvm_views_vcpu *s)
{
	int idx;

	if (!mutex_trylock(&vcpu->mutex))
		return false;

	vcpu_load(vcpu);
	idx = srcu_read_lock(&vcpu->kvm->srcu);
	views_fill(vcpu, s);
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return true;
}

/*
 * A vCPU that waits for its start-up IPI has no state worth the trouble, and
 * waits in a place where it would have to go back to its VMM to answer.
 */
static bool views_never_ran(struct kvm_vcpu *vcpu, struct kvm_views_vcpu *s)
{
	if (READ_ONCE(vcpu->arch.mp_state) != KVM_MP_STATE_UNINITIALIZED)
		return false;

	s->vcpu_id = vcpu->vcpu_id;
	s->flags = KVM_VIEWS_VCPU_NEVER_RAN;
	s->exits = vcpu->stat.exits;
	return true;
}

static int views_snapshot(struct kvm_views *views, struct kvm_vcpu *vcpu,
			  struct kvm_views_vcpu *s)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;
	long r;

	for (;;) {
		if (views_try_snapshot(vcpu, s) || views_never_ran(vcpu, s))
			return 0;

		WRITE_ONCE(v->snapshot_state, KVM_VIEWS_SNAPSHOT_WANTED);
		kvm_make_request(KVM_REQ_VIEWS, vcpu);
		kvm_make_request(KVM_REQ_UNBLOCK, vcpu);
		kvm_vcpu_kick(vcpu);
		/* It may be parked. */
		wake_up_all(&views->wait);

		/* It may also leave KVM_RUN without coming by: look again. */
		r = wait_event_interruptible_timeout(views->wait,
						     views_snapshot_done(vcpu), 1);
		if (views_snapshot_done(vcpu)) {
			*s = v->snapshot;
			return 0;
		}
		if (r < 0)
			return -EINTR;
	}
}

int kvm_views_get_vcpu(struct kvm_views *views, struct kvm_views_vcpu *arg)
{
	struct kvm_views_vcpu s = { .index = arg->index };
	struct kvm_vcpu *vcpu;
	int r;

	/* kvm_get_vcpu() takes an int. */
	if (arg->index >= atomic_read(&views->kvm->online_vcpus))
		return -ENOENT;
	vcpu = kvm_get_vcpu(views->kvm, arg->index);
	if (!vcpu)
		return -ENOENT;

	if (mutex_lock_interruptible(&views->snapshot_lock))
		return -EINTR;
	r = views_snapshot(views, vcpu, &s);
	WRITE_ONCE(vcpu->arch.views->snapshot_state, KVM_VIEWS_SNAPSHOT_NONE);
	mutex_unlock(&views->snapshot_lock);
	if (r)
		return r;

	s.index = arg->index;
	*arg = s;
	return 0;
}
