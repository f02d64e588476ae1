// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the accesses of KVM's instruction emulator. It works on guest
 * memory from the host's side, so it has to ask what the current view allows,
 * and it finds the pages of the hidden region in no memslot.
 */
#include <linux/kvm_host.h>

#include "kvm_emulate.h"
#include "views/internal.h"
#include "x86.h"

bool __kvm_views_emulate(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, void *val,
			 unsigned int bytes, bool write,
			 struct x86_exception *exception, int *ret)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_area *area = kvm_views_area(views);
	struct kvm_vcpu_views *v = vcpu->arch.views;
	gfn_t gfn = gpa_to_gfn(gpa);
	bool region = kvm_views_area_has(area, gfn);
	unsigned int need = write ? KVM_VIEWS_W : KVM_VIEWS_R;
	unsigned int on;
	unsigned int rights = kvm_views_rights(views, v->view, gfn, &on);

	/* A hole: the VMM's business. */
	if (region && !rights)
		return false;
	if (!region && kvm_is_error_hva(kvm_vcpu_gfn_to_hva(vcpu, gfn)))
		return false;

	if (!(rights & need)) {
		if (!v->denied || v->denied_gfn != gfn)
			kvm_views_violation(vcpu, need, gpa, gva);
		v->denied = true;
		v->denied_gfn = gfn;

		if (on == KVM_VIEWS_ON_INJECT) {
			exception->vector = GP_VECTOR;
			exception->error_code_valid = true;
			exception->error_code = 0;
			exception->nested_page_fault = false;
			*ret = X86EMUL_PROPAGATE_FAULT;
			return true;
		}
		if (on == KVM_VIEWS_ON_DENY) {
			if (!write)
				memset(val, 0, bytes);
			*ret = X86EMUL_CONTINUE;
			return true;
		}
	}

	if (!region)
		return v->view == KVM_VIEWS_MAIN &&
		       kvm_views_emulate_hidden(vcpu, gva, gpa, val, bytes, write, ret);

	if (write)
		memcpy(page_address(kvm_views_area_page(area, gfn)) + offset_in_page(gpa),
		       val, bytes);
	else
		memcpy(val, page_address(kvm_views_area_page(area, gfn)) +
		       offset_in_page(gpa), bytes);
	*ret = X86EMUL_CONTINUE;
	return true;
}

bool __kvm_views_no_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_vcpu_views *v = vcpu->arch.views;
	gfn_t gfn = gpa_to_gfn(gpa);
	unsigned int on, rights;

	if (kvm_views_area_has(kvm_views_area(views), gfn))
		return true;

	rights = kvm_views_rights(views, v->view, gfn, &on);
	if (rights & KVM_VIEWS_W)
		return false;

	/* Allowed and reported: let it be atomic. */
	return on != KVM_VIEWS_ON_ALLOW || !v->denied || v->denied_gfn != gfn;
}

int __kvm_views_fetch(struct kvm_vcpu *vcpu, gfn_t gfn, void *val, int offset, int len)
{
	struct kvm_views *views = vcpu->kvm->arch.views;
	struct kvm_views_area *area = kvm_views_area(views);
	unsigned int on;
	unsigned int rights = kvm_views_rights(views, vcpu->arch.views->view, gfn, &on);

	if (!(rights & KVM_VIEWS_X))
		return -EFAULT;
	if (!kvm_views_area_has(area, gfn))
		return kvm_vcpu_read_guest_page(vcpu, gfn, val, offset, len);

	memcpy(val, page_address(kvm_views_area_page(area, gfn)) + offset, len);
	return 0;
}

bool __kvm_views_emulation_failed(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	if (v->view != KVM_VIEWS_MAIN) {
		kvm_views_expel(vcpu, 0, 0, 0);
		return true;
	}
	if (kvm_views_let_through(vcpu))
		return true;
	if (v->denied) {
		kvm_queue_exception_e(vcpu, GP_VECTOR, 0);
		return true;
	}
	return false;
}
