// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: a vCPU's part. It puts its views on and off between two entries,
 * keeps track of the current view, and keeps events away from the shadow view.
 */
#include <linux/kvm_host.h>

#include "kvm_cache_regs.h"
#include "mmu/tdp_mmu.h"
#include "views/internal.h"
#include "views/views_mmu.h"
#include "x86.h"

int kvm_views_create_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = kzalloc(sizeof(*v), GFP_KERNEL_ACCOUNT);

	if (!v)
		return -ENOMEM;

	v->eptp_list = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!v->eptp_list) {
		kfree(v);
		return -ENOMEM;
	}
	v->held_irq = -1;
	vcpu->arch.views = v;

	/* The VM may have views already, or get them before the vCPU is known. */
	kvm_make_request(KVM_REQ_VIEWS, vcpu);
	return 0;
}

void kvm_views_free_vcpu(struct kvm_vcpu *vcpu)
{
	if (!vcpu->arch.views)
		return;

	free_page((unsigned long)vcpu->arch.views->eptp_list);
	kfree(vcpu->arch.views);
	vcpu->arch.views = NULL;
}

void __kvm_views_alloc_root(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *mmu = vcpu->arch.mmu;
	union kvm_mmu_page_role role = mmu->root_role;
	hpa_t root = mmu->root.hpa;

	if (WARN_ON_ONCE(mmu != &vcpu->arch.root_mmu))
		return;

	/* Both views' roots come and go together, with a reference each. */
	kvm_views_free_root(vcpu->kvm, mmu);
	mmu->root_role = kvm_views_role_of(role, !vcpu->arch.views->view);
	kvm_tdp_mmu_alloc_root(vcpu);
	mmu->view_root = mmu->root.hpa;
	mmu->root_role = role;
	mmu->root.hpa = root;

	kvm_views_premap(vcpu);
}

void __kvm_views_free_root(struct kvm *kvm, struct kvm_mmu *mmu)
{
	read_lock(&kvm->mmu_lock);
	kvm_tdp_mmu_put_root(kvm, root_to_sp(mmu->view_root));
	read_unlock(&kvm->mmu_lock);
	mmu->view_root = INVALID_PAGE;
}

/* The guest is in the other view: make its root the current one. */
void kvm_views_switch(struct kvm_vcpu *vcpu, unsigned int view)
{
	struct kvm_mmu *mmu = &vcpu->arch.root_mmu;
	struct kvm_vcpu_views *v = vcpu->arch.views;

	swap(mmu->root.hpa, mmu->view_root);
	v->view = view;
	mmu->root_role = kvm_views_role_of(mmu->root_role, view);
	vcpu_clear_mmio_info(vcpu, MMIO_GVA_ANY);
	atomic64_inc(&vcpu->kvm->arch.views->switches);

	if (view == KVM_VIEWS_MAIN && v->hold) {
		v->hold = false;
		kvm_make_request(KVM_REQ_EVENT, vcpu);
	}
}
EXPORT_SYMBOL_GPL(kvm_views_switch);

/* Takes the vCPU out of the shadow view before the guest runs on. */
void kvm_views_return_to_main(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *mmu = &vcpu->arch.root_mmu;

	kvm_views_switch(vcpu, KVM_VIEWS_MAIN);
	/* Else the next kvm_mmu_reload() loads it. */
	if (VALID_PAGE(mmu->root.hpa))
		kvm_x86_call(load_mmu_pgd)(vcpu, mmu->root.hpa, mmu->root_role.level);
}
EXPORT_SYMBOL_GPL(kvm_views_return_to_main);

/*
 * The code of the shadow view did what it must not, or was made to: it loses the
 * vCPU. What it had in registers is not the guest's to see; RSP tells the owner
 * on whose stack it was.
 */
void kvm_views_expel(struct kvm_vcpu *vcpu, unsigned int access, gpa_t gpa, gva_t gva)
{
	int reg;

	kvm_views_queue_event(vcpu, KVM_VIEWS_EVENT_ESCAPE, access, gpa, gva,
			      kvm_rsp_read(vcpu));
	for (reg = VCPU_REGS_RAX; reg <= VCPU_REGS_R15; reg++) {
		if (reg != VCPU_REGS_RSP)
			kvm_register_write_raw(vcpu, reg, 0);
	}
	kvm_views_return_to_main(vcpu);
}

static void views_arm(struct kvm_vcpu *vcpu, bool on)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	if (v->on == on || WARN_ON_ONCE(is_guest_mode(vcpu)))
		return;

	kvm_mmu_unload(vcpu);
	v->on = on;
	v->view = KVM_VIEWS_MAIN;
	kvm_views_set_inside(v, false);
	WRITE_ONCE(v->may_return, false);
	v->hold = false;
	v->parked = false;
	v->denied = false;
	v->hidden.tried = false;
	kvm_views_ops->update(vcpu);
	kvm_mmu_reset_context(vcpu);
	kvm_make_request(KVM_REQ_TLB_FLUSH_GUEST, vcpu);
}

/* KVM_REQ_VIEWS: stand still, answer, arm or disarm. Nonzero: leave the guest with it. */
int kvm_views_handle_request(struct kvm_vcpu *vcpu)
{
	/* Pairs with views_of(). */
	struct kvm_views *views = smp_load_acquire(&vcpu->kvm->arch.views);
	int r;

	if (!views)
		return 0;

	r = kvm_views_wait_while(vcpu, &vcpu->arch.views->overwrite.wanted);
	if (!r)
		r = kvm_views_wait_while(vcpu, &views->stopped);
	if (r)
		return r;

	kvm_views_take_snapshot(vcpu);
	kvm_views_log_dirty(vcpu);
	views_arm(vcpu, views->armed);
	kvm_views_note_return(vcpu);
	/* Whoever made it exit may wait for it to have been outside. */
	wake_up_all(&views->wait);
	kvm_views_hasten_drain(vcpu);
	return 0;
}

/* In the main view: what was taken from the guest is given again once it can take it. */
static void views_give_held_irq(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	if (vcpu->arch.exception.pending || kvm_event_needs_reinjection(vcpu) ||
	    kvm_x86_call(interrupt_allowed)(vcpu, false) <= 0) {
		kvm_x86_call(enable_irq_window)(vcpu);
		return;
	}
	kvm_queue_interrupt(vcpu, v->held_irq, false);
	v->held_irq = -1;
}

/*
 * Returns true if the guest has to go on without injection. What is pending
 * waits until it is back: its VMFUNC exits, because the list lacks the main
 * view meanwhile.
 */
bool __kvm_views_hold_events(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	if (v->view == KVM_VIEWS_MAIN) {
		views_give_held_irq(vcpu);
		return false;
	}

	/* #VE is meant for the code here. */
	if (vcpu->arch.exception.pending && vcpu->arch.exception.vector == VE_VECTOR)
		return false;

	/* KVM itself raised it: the code here did what it must not. */
	if (vcpu->arch.exception.pending) {
		kvm_views_expel(vcpu, 0, 0, 0);
		return false;
	}

	/* Of the code's own making, its delivery was interrupted: that goes on. */
	if (vcpu->arch.exception.injected ||
	    (vcpu->arch.interrupt.injected && vcpu->arch.interrupt.soft))
		return false;

	/* The VMM gave it, or it was on its way: KVM forgets it at the next exit. */
	if (vcpu->arch.interrupt.injected) {
		v->held_irq = vcpu->arch.interrupt.nr;
		kvm_clear_interrupt_queue(vcpu);
	}

	if (vcpu->arch.nmi_pending || vcpu->arch.smi_pending || v->held_irq >= 0 ||
	    kvm_cpu_has_injectable_intr(vcpu)) {
		v->hold = true;
		WRITE_ONCE(v->eptp_list[KVM_VIEWS_MAIN], 0);
	}
	return true;
}

/* INIT, or the VMM, which puts all vCPUs back. */
void __kvm_views_reset_vcpu(struct kvm_vcpu *vcpu, bool init)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;
	u64 arg = 0;

	if (init)
		arg |= KVM_VIEWS_RESET_INIT;
	if (kvm_vcpu_is_reset_bsp(vcpu))
		arg |= KVM_VIEWS_RESET_BOOT;
	kvm_views_report(vcpu, KVM_VIEWS_EVENT_RESET, arg);
	v->held_irq = -1;
	/* Else nobody would clear it, and the next #VE would not be delivered. */
	if (v->view != KVM_VIEWS_MAIN)
		kvm_views_ops->forget_ve(vcpu);
	if (v->view != KVM_VIEWS_MAIN)
		kvm_views_return_to_main(vcpu);
	v->parked = false;
	kvm_views_set_inside(v, false);
	WRITE_ONCE(v->may_return, false);
	/* It may not enter the guest before others start it. */
	kvm_views_hasten_drain(vcpu);
}

/* A parked vCPU waits for its owner as long as there is one. */
static bool views_owner_listens(struct kvm_views *views)
{
	return READ_ONCE(views->attached) &&
	       READ_ONCE(views->state) == KVM_VIEWS_STATE_ENABLED;
}

/*
 * VMCALL in the shadow view. RIP stays where it is until there is an answer:
 * for a signal or a request the vCPU goes round and comes back here.
 */
int kvm_views_park(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_vcpu_views *v = vcpu->arch.views;
	unsigned long rip = kvm_rip_read(vcpu);
	bool heard = true;

	if (!v->parked || v->parked_rip != rip) {
		v->parked_rip = rip;
		WRITE_ONCE(v->resumed, false);
		/* Pairs with kvm_views_resume_vcpu(). */
		smp_store_release(&v->parked, true);
		atomic64_inc(&views->calls);
		heard = kvm_views_queue_event(vcpu, KVM_VIEWS_EVENT_CALL, 0, 0, 0,
					      kvm_rbx_read(vcpu));
	}

	if (heard) {
		kvm_vcpu_srcu_read_unlock(vcpu);
		wait_event_interruptible(views->wait,
					 READ_ONCE(v->resumed) ||
					 !views_owner_listens(views) ||
					 kvm_request_pending(vcpu));
		kvm_vcpu_srcu_read_lock(vcpu);

		if (!READ_ONCE(v->resumed) && views_owner_listens(views))
			return 1;
	}

	kvm_rax_write(vcpu, READ_ONCE(v->resumed) ? 0 : 1);
	WRITE_ONCE(v->parked, false);
	return kvm_skip_emulated_instruction(vcpu);
}
EXPORT_SYMBOL_GPL(kvm_views_park);

int kvm_views_resume_vcpu(struct kvm_views *views, struct kvm_views_resume *arg)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(views->kvm, arg->vcpu_id);

	if (arg->pad)
		return -EINVAL;
	/* Pairs with kvm_views_park(). */
	if (!vcpu || !smp_load_acquire(&vcpu->arch.views->parked) ||
	    READ_ONCE(vcpu->arch.views->resumed))
		return -ENOENT;

	WRITE_ONCE(vcpu->arch.views->resumed, true);
	wake_up_all(&views->wait);
	return 0;
}
