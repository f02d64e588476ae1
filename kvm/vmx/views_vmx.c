// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the VMX part.
 */
#include <linux/kvm_host.h>
#include <asm/vmx.h>

#include "kvm_cache_regs.h"
#include "mmu.h"
#include "nested.h"
#include "views/internal.h"
#include "vmx.h"
#include "x86.h"
#include "views_vmx.h"

static bool views_have_secondary_control(u32 control)
{
	u64 msr;

	return cpu_has_secondary_exec_ctrls() &&
	       !rdmsrl_safe(MSR_IA32_VMX_PROCBASED_CTLS2, &msr) &&
	       (msr >> 32 & control);
}

static bool views_have_ve(void)
{
	return views_have_secondary_control(SECONDARY_EXEC_EPT_VIOLATION_VE);
}

static u32 views_hardware(void)
{
	u32 hardware = 0;
	u64 functions;

	if (enable_ept)
		hardware |= KVM_VIEWS_HW_EPT;
	if (cpu_has_vmx_vmfunc() && !rdmsrl_safe(MSR_IA32_VMX_VMFUNC, &functions) &&
	    (functions & VMX_VMFUNC_EPTP_SWITCHING))
		hardware |= KVM_VIEWS_HW_EPTP_SWITCHING;
	if (enable_ept && cpu_has_vmx_ept_execute_only())
		hardware |= KVM_VIEWS_HW_EXEC_ONLY;
	if (views_have_ve())
		hardware |= KVM_VIEWS_HW_VE;
	if (enable_vpid)
		hardware |= KVM_VIEWS_HW_VPID;
	return hardware;
}

static bool views_want_ve(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_area *area = kvm_views_area(views);

	return views->ve && area &&
	       views->ve_page + (u64)vcpu->vcpu_id < area->pages->nr;
}

u32 __vmx_views_exec_control(struct kvm_vcpu *vcpu)
{
	u32 control = SECONDARY_EXEC_ENABLE_VMFUNC;
	int idx = srcu_read_lock(&vcpu->kvm->srcu);

	if (views_want_ve(vcpu))
		control |= SECONDARY_EXEC_EPT_VIOLATION_VE;
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
	return control;
}

/* The views were switched on or off; the roots follow. */
static void views_update(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_vcpu_views *v = vcpu->arch.views;
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	v->eptp_list[KVM_VIEWS_MAIN] = 0;
	v->eptp_list[KVM_VIEWS_SHADOW] = 0;

	if (!v->on) {
		vmcs_write64(VM_FUNCTION_CONTROL, 0);
		secondary_exec_controls_clearbit(vmx, SECONDARY_EXEC_ENABLE_VMFUNC |
						      SECONDARY_EXEC_EPT_VIOLATION_VE);
		return;
	}

	vmcs_write64(VM_FUNCTION_CONTROL, VMX_VMFUNC_EPTP_SWITCHING);
	vmcs_write64(EPTP_LIST_ADDRESS, __pa(v->eptp_list));
	if (views_want_ve(vcpu)) {
		struct kvm_views_area *area = kvm_views_area(views);
		u32 index = views->ve_page + vcpu->vcpu_id;

		vmcs_write64(VE_INFORMATION_ADDRESS,
			     page_to_phys(area->pages->page[index]));
		secondary_exec_controls_setbit(vmx, SECONDARY_EXEC_EPT_VIOLATION_VE);
	}
	secondary_exec_controls_setbit(vmx, SECONDARY_EXEC_ENABLE_VMFUNC);
}

void __vmx_views_load(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *mmu = &vcpu->arch.root_mmu;
	struct kvm_vcpu_views *v = vcpu->arch.views;
	int view;

	for (view = 0; view < KVM_VIEWS_COUNT; view++) {
		hpa_t root = view == v->view ? mmu->root.hpa : mmu->view_root;
		u64 eptp = 0;

		if (VALID_PAGE(root))
			eptp = construct_eptp(vcpu, root, mmu->root_role.level) &
			       ~VMX_EPTP_AD_ENABLE_BIT;
		v->eptp[view] = eptp;
		if (view == KVM_VIEWS_MAIN && v->hold)
			eptp = 0;
		WRITE_ONCE(v->eptp_list[view], eptp);
	}

	vmcs_write64(EPT_POINTER, v->eptp[v->view]);
	if (views_have_ve())
		vmcs_write16(EPTP_INDEX, v->view);
}

void __vmx_views_flush(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *mmu = &vcpu->arch.root_mmu;

	if (VALID_PAGE(mmu->view_root))
		ept_sync_context(construct_eptp(vcpu, mmu->view_root,
						mmu->root_role.level));
}

/* Has the guest nothing on its stack that an interrupt could return to? */
static bool views_has_no_frames(struct kvm_vcpu *vcpu)
{
	return to_vmx(vcpu)->exit_reason.basic == EXIT_REASON_HLT ||
	       vmcs_read32(GUEST_ACTIVITY_STATE) == GUEST_ACTIVITY_HLT ||
	       vmx_get_cpl(vcpu) == 3;
}

void __vmx_views_sync(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_vcpu_views *v = vcpu->arch.views;

	/* VMFUNC writes the EPTP it took from the list back to the VMCS. */
	if (vmcs_read64(EPT_POINTER) != v->eptp[v->view])
		kvm_views_switch(vcpu, !v->view);

	v->denied = false;
	v->hidden.tried = false;
	/* A software interrupt that this exit cut short may be on its way to the gate. */
	kvm_views_set_inside(v, (vcpu->arch.interrupt.injected &&
				 vcpu->arch.interrupt.soft) ||
				v->view != KVM_VIEWS_MAIN ||
				kvm_rip_read(vcpu) - views->gate_gva < views->gate_len ||
				vmx_get_nmi_mask(vcpu));
	if (unlikely(v->may_return) && !v->inside && views_has_no_frames(vcpu))
		WRITE_ONCE(v->may_return, false);
}

static void views_report_vmfunc(struct kvm_vcpu *vcpu)
{
	kvm_views_report(vcpu, KVM_VIEWS_EVENT_BAD_VMFUNC,
			 (u32)kvm_rax_read(vcpu) | kvm_rcx_read(vcpu) << 32);
}

static int views_handle_vmfunc(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;
	u32 leaf = kvm_rax_read(vcpu);
	u32 index = kvm_rcx_read(vcpu);

	/* The way back, barred because something waits to be injected. */
	if (!leaf && index == KVM_VIEWS_MAIN && v->view != KVM_VIEWS_MAIN && v->hold) {
		kvm_views_return_to_main(vcpu);
		return kvm_skip_emulated_instruction(vcpu);
	}

	views_report_vmfunc(vcpu);
	kvm_queue_exception(vcpu, UD_VECTOR);
	return 1;
}

/* A leaf above 63 is #UD to the CPU itself, KVM sees that before the guest does. */
static bool views_ud_is_vmfunc(struct kvm_vcpu *vcpu)
{
	static const u8 vmfunc[] = { 0x0f, 0x01, 0xd4 };
	struct x86_exception e;
	u8 insn[sizeof(vmfunc)];

	return is_invalid_opcode(vmx_get_intr_info(vcpu)) &&
	       kvm_read_guest_virt(vcpu, kvm_get_linear_rip(vcpu), insn, sizeof(insn),
				   &e) == X86EMUL_CONTINUE &&
	       !memcmp(insn, vmfunc, sizeof(vmfunc));
}

/*
 * A breakpoint of the guest's lies on what the shadow view runs or reads. The
 * guest is told nothing; RF takes the vCPU past a breakpoint on an instruction.
 */
static bool views_skip_breakpoint(struct kvm_vcpu *vcpu)
{
	if (vcpu->arch.views->view == KVM_VIEWS_MAIN || !is_debug(vmx_get_intr_info(vcpu)))
		return false;

	kvm_views_report(vcpu, KVM_VIEWS_EVENT_DEBUG, vmx_get_exit_qual(vcpu));
	vmx_set_rflags(vcpu, vmx_get_rflags(vcpu) | X86_EFLAGS_RF);
	return true;
}

bool __vmx_views_handle_exit(struct kvm_vcpu *vcpu, int *ret)
{
	switch (to_vmx(vcpu)->exit_reason.basic) {
	case EXIT_REASON_EXCEPTION_NMI:
		if (views_skip_breakpoint(vcpu)) {
			*ret = 1;
			return true;
		}
		if (views_ud_is_vmfunc(vcpu))
			views_report_vmfunc(vcpu);
		return false;
	case EXIT_REASON_VMFUNC:
		*ret = views_handle_vmfunc(vcpu);
		return true;
	case EXIT_REASON_VMCALL:
		if (vcpu->arch.views->view == KVM_VIEWS_MAIN)
			return false;
		*ret = kvm_views_park(vcpu);
		return true;
	case EXIT_REASON_VMON:
		kvm_views_report(vcpu, KVM_VIEWS_EVENT_NESTED, 0);
		kvm_queue_exception(vcpu, UD_VECTOR);
		*ret = 1;
		return true;
	default:
		return false;
	}
}

static gva_t views_fault_gva(struct kvm_vcpu *vcpu)
{
	if (to_vmx(vcpu)->exit_reason.basic != EXIT_REASON_EPT_VIOLATION ||
	    !(vmx_get_exit_qual(vcpu) & EPT_VIOLATION_GVA_IS_VALID))
		return 0;

	return vmcs_readl(GUEST_LINEAR_ADDRESS);
}

/* Deliver #VE by hand where the CPU could not; @page is the vCPU's information page. */
static bool views_inject_ve(struct kvm_vcpu *vcpu, void *page)
{
	struct vmx_ve_information *ve = page;

	if (READ_ONCE(ve->delivery) || !is_protmode(vcpu))
		return false;

	ve->exit_reason = EXIT_REASON_EPT_VIOLATION;
	ve->exit_qualification = vmx_get_exit_qual(vcpu);
	ve->guest_linear_address = vmcs_readl(GUEST_LINEAR_ADDRESS);
	ve->guest_physical_address = vmcs_read64(GUEST_PHYSICAL_ADDRESS);
	ve->eptp_index = vcpu->arch.views->view;
	WRITE_ONCE(ve->delivery, ~0u);
	kvm_queue_exception(vcpu, VE_VECTOR);
	return true;
}

/* Whatever #VE the vCPU was handling, it does so no more. */
static void views_forget_ve(struct kvm_vcpu *vcpu)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct vmx_ve_information *ve;
	struct kvm_views_area *area;
	int idx = srcu_read_lock(&vcpu->kvm->srcu);

	area = kvm_views_area(views);
	if (views_want_ve(vcpu)) {
		ve = page_address(area->pages->page[views->ve_page + vcpu->vcpu_id]);
		WRITE_ONCE(ve->delivery, 0);
	}
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
}

static bool views_nested(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(to_vmx(vcpu)->nested.vmxon);
}

static const struct kvm_views_ops vmx_views_ops = {
	.owner = THIS_MODULE,
	.hardware = views_hardware,
	.update = views_update,
	.fault_gva = views_fault_gva,
	.inject_ve = views_inject_ve,
	.forget_ve = views_forget_ve,
	.nested = views_nested,
};

void vmx_views_init(void)
{
	kvm_views_set_ops(&vmx_views_ops);
}

void vmx_views_exit(void)
{
	kvm_views_set_ops(NULL);
}
