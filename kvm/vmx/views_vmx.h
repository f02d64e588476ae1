/* SPDX-License-Identifier: GPL-2.0-only */
/* EPT views in VMX: the VMCS fields, the EPTP list, the exits of their own. */
#ifndef __KVM_X86_VMX_VIEWS_H
#define __KVM_X86_VMX_VIEWS_H

#include "views/views.h"

#ifdef CONFIG_KVM_VIEWS

void vmx_views_init(void);
void vmx_views_exit(void);
u32 __vmx_views_exec_control(struct kvm_vcpu *vcpu);
void __vmx_views_load(struct kvm_vcpu *vcpu);
void __vmx_views_flush(struct kvm_vcpu *vcpu);
void __vmx_views_sync(struct kvm_vcpu *vcpu);
bool __vmx_views_handle_exit(struct kvm_vcpu *vcpu, int *ret);

/* Secondary controls that the views need on top of KVM's own. */
static inline u32 vmx_views_exec_control(struct kvm_vcpu *vcpu)
{
	return kvm_views_on(vcpu) ? __vmx_views_exec_control(vcpu) : 0;
}

/* The roots have changed. */
static inline void vmx_views_load(struct kvm_vcpu *vcpu)
{
	if (kvm_views_on(vcpu) && !is_guest_mode(vcpu))
		__vmx_views_load(vcpu);
}

/* Flush the view that is not current, too. */
static inline void vmx_views_flush(struct kvm_vcpu *vcpu)
{
	if (kvm_views_on(vcpu))
		__vmx_views_flush(vcpu);
}

/* After each exit, before interrupts are on again: what did the guest do? */
static inline void vmx_views_sync(struct kvm_vcpu *vcpu)
{
	if (kvm_views_on(vcpu) && !is_guest_mode(vcpu))
		__vmx_views_sync(vcpu);
}

/* True: the exit is dealt with, *ret is the result. */
static inline bool vmx_views_handle_exit(struct kvm_vcpu *vcpu, int *ret)
{
	return kvm_views_on(vcpu) && !is_guest_mode(vcpu) &&
	       __vmx_views_handle_exit(vcpu, ret);
}

#else /* !CONFIG_KVM_VIEWS */

static inline void vmx_views_init(void) { }
static inline void vmx_views_exit(void) { }
static inline u32 vmx_views_exec_control(struct kvm_vcpu *vcpu) { return 0; }
static inline void vmx_views_load(struct kvm_vcpu *vcpu) { }
static inline void vmx_views_flush(struct kvm_vcpu *vcpu) { }
static inline void vmx_views_sync(struct kvm_vcpu *vcpu) { }
static inline bool vmx_views_handle_exit(struct kvm_vcpu *vcpu, int *ret)
{
	return false;
}

#endif
#endif
