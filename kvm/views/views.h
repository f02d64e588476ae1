/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * EPT views, as the rest of KVM sees them: what a vCPU carries, and the hooks.
 * Every hook is a no-op for a vCPU without views and an empty inline function
 * when CONFIG_KVM_VIEWS is off.
 */
#ifndef __KVM_X86_VIEWS_H
#define __KVM_X86_VIEWS_H

#include <linux/kvm_host.h>
#include "guest_offer.h"
#include "kvm_views.h"

struct x86_exception;

/* How far the answer to KVM_VIEWS_GET_VCPU has come. */
enum kvm_views_snapshot_state {
	KVM_VIEWS_SNAPSHOT_NONE,
	KVM_VIEWS_SNAPSHOT_WANTED,
	KVM_VIEWS_SNAPSHOT_DONE,
};

/* The access to a page with hidden patches that is being emulated. */
struct kvm_views_hidden_access {
	bool tried;		/* since the last exit; the next three are valid */
	bool write;
	gpa_t gpa;
	gva_t gva;
	bool locked;		/* between begin and end of an exchange */
};

/* Where this vCPU writes over hidden patches. */
struct kvm_views_overwrite {
	bool wanted;		/* the vCPU waits; the next three are valid */
	u32 len;
	gpa_t gpa;
	struct kvm_views_event event;
};

/*
 * The views of one vCPU. Written only by the thread that has the vCPU loaded,
 * but for the snapshot and @resumed, which the owner's thread asks for or sets,
 * @lingers, which a patch sets, @may_return, which others set and clear with
 * views->lock, and @overwrite, while it is wanted.
 */
struct kvm_vcpu_views {
	bool on;		/* VMFUNC is enabled, the roots are those of views */
	u8 view;		/* current view, as of the last exit */
	bool inside;		/* was in the compartment at the last exit */
	bool lingers;		/* has not been outside since the last patch */
	bool may_return;	/* to the compartment from an interrupt, see calls.c */
	bool hold;		/* events wait for the return to the main view */
	bool parked;		/* at a VMCALL of the shadow view, see @parked_rip */
	bool resumed;		/* KVM_VIEWS_RESUME came for that VMCALL */
	s16 held_irq;		/* a vector that was given already and taken back, or -1 */
	bool denied;		/* emulating an access that a view forbids */
	unsigned long parked_rip;
	gfn_t denied_gfn;	/* already reported, valid with @denied */
	struct kvm_views_hidden_access hidden;
	struct kvm_views_overwrite overwrite;
	u64 eptp[KVM_VIEWS_COUNT];
	u64 *eptp_list;		/* the page that VMFUNC reads */

	enum kvm_views_snapshot_state snapshot_state;
	struct kvm_views_vcpu snapshot;
};

#ifdef CONFIG_KVM_VIEWS

static inline bool kvm_views_on(struct kvm_vcpu *vcpu)
{
	return unlikely(vcpu->arch.views->on);
}

/* Of a vCPU that does not run guest code: where is it? */
static inline void kvm_views_set_inside(struct kvm_vcpu_views *v, bool inside)
{
	WRITE_ONCE(v->inside, inside);
	if (!inside)
		WRITE_ONCE(v->lingers, false);
}

long kvm_views_dev_ioctl(unsigned int ioctl, void __user *argp);
void kvm_views_vm_gone(struct kvm *kvm);
void kvm_views_stop_vm(struct kvm *kvm);
void kvm_views_destroy_vm(struct kvm *kvm);

void kvm_views_new_slot(struct kvm *kvm, const struct kvm_memory_slot *slot);
bool kvm_views_refuse_nested(struct kvm_vcpu *vcpu,
			     const struct kvm_nested_state *state);

int kvm_views_create_vcpu(struct kvm_vcpu *vcpu);
void kvm_views_free_vcpu(struct kvm_vcpu *vcpu);
int kvm_views_handle_request(struct kvm_vcpu *vcpu);
void __kvm_views_take_snapshot(struct kvm_vcpu *vcpu);
bool __kvm_views_hold_events(struct kvm_vcpu *vcpu);
void __kvm_views_reset_vcpu(struct kvm_vcpu *vcpu, bool init);
void kvm_views_switch(struct kvm_vcpu *vcpu, unsigned int view);
void kvm_views_return_to_main(struct kvm_vcpu *vcpu);
int kvm_views_park(struct kvm_vcpu *vcpu);
void kvm_views_report(struct kvm_vcpu *vcpu, u32 type, u64 arg);

bool __kvm_views_emulate(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, void *val,
			 unsigned int bytes, bool write,
			 struct x86_exception *exception, int *ret);
bool __kvm_views_no_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa);
int __kvm_views_begin_cmpxchg(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
			      const void *val, unsigned int bytes);
void __kvm_views_end_cmpxchg(struct kvm_vcpu *vcpu);
int __kvm_views_fetch(struct kvm_vcpu *vcpu, gfn_t gfn, void *val, int offset,
		      int len);
bool __kvm_views_emulation_failed(struct kvm_vcpu *vcpu);

unsigned long __kvm_views_hypercall(struct kvm_vcpu *vcpu, unsigned long operation,
				    gva_t gva, unsigned long size, gpa_t entry);
void kvm_views_forget_offer(struct kvm_vcpu *vcpu);

/* For KVM_VIEWS_GET_VCPU: called wherever a vCPU passes between two entries. */
static inline void kvm_views_take_snapshot(struct kvm_vcpu *vcpu)
{
	if (unlikely(READ_ONCE(vcpu->arch.views->snapshot_state) ==
		     KVM_VIEWS_SNAPSHOT_WANTED))
		__kvm_views_take_snapshot(vcpu);
}

/* Nothing may be injected while the guest is in the shadow view; then what was held. */
static inline bool kvm_views_hold_events(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_views *v = vcpu->arch.views;

	return unlikely((v->on && v->view != KVM_VIEWS_MAIN) || v->held_irq >= 0) &&
	       __kvm_views_hold_events(vcpu);
}

static inline void kvm_views_reset_vcpu(struct kvm_vcpu *vcpu, bool init)
{
	kvm_views_forget_offer(vcpu);
	if (kvm_views_on(vcpu))
		__kvm_views_reset_vcpu(vcpu, init);
}

/* A VMM resets a vCPU by putting it back into real mode. */
static inline void kvm_views_set_sregs(struct kvm_vcpu *vcpu,
				       struct kvm_sregs *sregs)
{
	if (!(sregs->cr0 & X86_CR0_PE))
		kvm_views_reset_vcpu(vcpu, false);
}

/* A hypercall of ring 0 that KVM itself does not know. */
static inline unsigned long kvm_views_hypercall(struct kvm_vcpu *vcpu, unsigned long nr,
						unsigned long operation, gva_t gva,
						unsigned long size, gpa_t entry)
{
	return nr == SM_HYPERCALL ?
	       __kvm_views_hypercall(vcpu, operation, gva, size, entry) : -KVM_ENOSYS;
}

/*
 * The emulator's loads and stores. True: the views took care of the access and
 * *ret is its X86EMUL_* result.
 */
static inline bool kvm_views_emulate(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
				     void *val, unsigned int bytes, bool write,
				     struct x86_exception *exception, int *ret)
{
	return kvm_views_on(vcpu) &&
	       __kvm_views_emulate(vcpu, gva, gpa, val, bytes, write, exception, ret);
}

/* An exchange with this page must go through kvm_views_emulate(). */
static inline bool kvm_views_no_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return kvm_views_on(vcpu) && __kvm_views_no_cmpxchg(vcpu, gpa);
}

/*
 * Around any other exchange, with the X86EMUL_* result: if it is to go on, nothing
 * is patched until the end.
 */
static inline int kvm_views_begin_cmpxchg(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
					  const void *val, unsigned int bytes)
{
	return kvm_views_on(vcpu) ?
	       __kvm_views_begin_cmpxchg(vcpu, gva, gpa, val, bytes) : 0;
}

static inline void kvm_views_end_cmpxchg(struct kvm_vcpu *vcpu)
{
	if (unlikely(vcpu->arch.views->hidden.locked))
		__kvm_views_end_cmpxchg(vcpu);
}

/* The emulator's instruction fetches. */
static inline int kvm_views_fetch(struct kvm_vcpu *vcpu, gfn_t gfn, void *val,
				  int offset, int len)
{
	if (kvm_views_on(vcpu))
		return __kvm_views_fetch(vcpu, gfn, val, offset, len);

	return kvm_vcpu_read_guest_page(vcpu, gfn, val, offset, len);
}

/* True: an answer was found that does not stop the VMM. */
static inline bool kvm_views_emulation_failed(struct kvm_vcpu *vcpu)
{
	return kvm_views_on(vcpu) && __kvm_views_emulation_failed(vcpu);
}

#else /* !CONFIG_KVM_VIEWS */

static inline bool kvm_views_on(struct kvm_vcpu *vcpu) { return false; }
static inline long kvm_views_dev_ioctl(unsigned int ioctl, void __user *argp)
{
	return -EINVAL;
}

static inline void kvm_views_vm_gone(struct kvm *kvm) { }
static inline void kvm_views_stop_vm(struct kvm *kvm) { }
static inline void kvm_views_destroy_vm(struct kvm *kvm) { }
static inline void kvm_views_new_slot(struct kvm *kvm,
				      const struct kvm_memory_slot *slot) { }
static inline bool kvm_views_refuse_nested(struct kvm_vcpu *vcpu,
					   const struct kvm_nested_state *state)
{
	return false;
}

static inline int kvm_views_create_vcpu(struct kvm_vcpu *vcpu) { return 0; }
static inline void kvm_views_free_vcpu(struct kvm_vcpu *vcpu) { }
static inline int kvm_views_handle_request(struct kvm_vcpu *vcpu) { return 0; }
static inline void kvm_views_take_snapshot(struct kvm_vcpu *vcpu) { }
static inline bool kvm_views_hold_events(struct kvm_vcpu *vcpu) { return false; }
static inline void kvm_views_reset_vcpu(struct kvm_vcpu *vcpu, bool init) { }
static inline void kvm_views_set_sregs(struct kvm_vcpu *vcpu,
				       struct kvm_sregs *sregs) { }

static inline unsigned long kvm_views_hypercall(struct kvm_vcpu *vcpu, unsigned long nr,
						unsigned long operation, gva_t gva,
						unsigned long size, gpa_t entry)
{
	return -KVM_ENOSYS;
}

static inline bool kvm_views_emulate(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
				     void *val, unsigned int bytes, bool write,
				     struct x86_exception *exception, int *ret)
{
	return false;
}

static inline bool kvm_views_no_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return false;
}

static inline int kvm_views_begin_cmpxchg(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
					  const void *val, unsigned int bytes)
{
	return 0;
}

static inline void kvm_views_end_cmpxchg(struct kvm_vcpu *vcpu) { }

static inline int kvm_views_fetch(struct kvm_vcpu *vcpu, gfn_t gfn, void *val,
				  int offset, int len)
{
	return kvm_vcpu_read_guest_page(vcpu, gfn, val, offset, len);
}

static inline bool kvm_views_emulation_failed(struct kvm_vcpu *vcpu)
{
	return false;
}

#endif
#endif
