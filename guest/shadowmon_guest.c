// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ShadowMonitor's cooperative mode: reserves in the guest's kernel the address range in
 * which a monitor may place its compartment, and tells the hypervisor where it is
 * (abi/guest_offer.h). No code of this module runs for a monitor, and a monitor trusts
 * nothing that it says.
 *
 * The range is the part of the hole below the kernel's text from which text and modules
 * are in reach of a jump. It is one entry of the page-table page that all processes share.
 *
 * While the range is offered the module holds a reference to itself, as a live patch does:
 *
 *	echo 0 >/sys/module/shadowmon_guest/parameters/offered
 *	rmmod shadowmon_guest
 *
 * The first fails with EBUSY while a monitor is there. Writing 1 offers the range again,
 * which is needed when the hypervisor has forgotten it: after a migration or a
 * suspension of the guest.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/kvm_para.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pgtable.h>

#include <asm/processor.h>

#include "abi/guest_offer.h"
#include "abi/layout.h"

/* All below; also orders the parameter's writers with the beginning and end of the module. */
static DEFINE_MUTEX(offer_lock);
static bool running;		/* the module has begun: the parameter acts */
static bool offered = true;	/* or, before that, whether it is to begin with an offer */
static u64 *reserved;		/* the entry that holds the reservation, NULL if none does */

static u64 reservation(void)
{
	return __pa_symbol(empty_zero_page) | SM_RESERVATION_BITS;
}

/* The entry is never freed and is the same in all address spaces. */
static u64 *find_entry(void)
{
	pgd_t *pgd = pgd_offset_pgd((pgd_t *)__va(read_cr3_pa()), SM_COMPARTMENT_GVA);
	p4d_t *p4d;

	BUILD_BUG_ON(SM_COMPARTMENT_SIZE != PUD_SIZE || SM_COMPARTMENT_GVA % PUD_SIZE);

	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, SM_COMPARTMENT_GVA);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return NULL;
	return (u64 *)pud_offset(p4d, SM_COMPARTMENT_GVA);
}

static int reserve(void)
{
	u64 *entry = find_entry();
	u64 old;

	if (!entry) {
		pr_err("the page tables of this kernel are not as expected\n");
		return -EOPNOTSUPP;
	}

	/* The world may be stopped and a monitor come at any moment: one exchange. */
	old = cmpxchg64(entry, 0, reservation());
	if (old && old != reservation()) {
		pr_err("%#llx is in use: page-table entry %#llx\n", (u64)SM_COMPARTMENT_GVA, old);
		return -EBUSY;
	}
	reserved = entry;
	return 0;
}

/* False: a monitor has its own entry there. */
static bool unreserve(void)
{
	u64 old = cmpxchg64(reserved, reservation(), 0);

	if (old && old != reservation())
		return false;
	reserved = NULL;
	return true;
}

static int answer_to_errno(long answer)
{
	switch (answer) {
	case -KVM_ENOSYS:
		return -ENODEV;
	case 0:
	case -EBUSY:
	case -ENOENT:
	case -ENOMEM:
	case -EOPNOTSUPP:
		return answer;
	default:
		return -EIO;
	}
}

static int offer(void)
{
	bool fresh = !reserved;
	int err;

	if (fresh) {
		err = reserve();
		if (err)
			return err;
		__module_get(THIS_MODULE);
	}

	err = answer_to_errno(kvm_hypercall4(SM_HYPERCALL, SM_HYPERCALL_OFFER, SM_COMPARTMENT_GVA,
					     SM_COMPARTMENT_SIZE, virt_to_phys(reserved)));
	if (!err) {
		offered = true;
		pr_info("%#llx is reserved and offered to the hypervisor\n",
			(u64)SM_COMPARTMENT_GVA);
		return 0;
	}
	/* A monitor that knew of an earlier offer may be there already: then it stays. */
	if (fresh && unreserve())
		module_put(THIS_MODULE);
	return err;
}

static int withdraw(void)
{
	int err;

	if (!reserved)
		return 0;

	err = answer_to_errno(kvm_hypercall4(SM_HYPERCALL, SM_HYPERCALL_WITHDRAW, 0, 0, 0));
	/* A hypervisor that knows of no offer, or no longer what an offer is, keeps nobody. */
	if (err && err != -ENOENT && err != -ENODEV)
		return err;
	offered = false;
	if (!unreserve())
		return -EBUSY;
	module_put(THIS_MODULE);
	return 0;
}

static int offered_set(const char *value, const struct kernel_param *param)
{
	bool want;
	int err = kstrtobool(value, &want);

	if (err)
		return err;

	mutex_lock(&offer_lock);
	if (!running)
		offered = want;
	else
		err = want ? offer() : withdraw();
	mutex_unlock(&offer_lock);
	return err;
}

static const struct kernel_param_ops offered_ops = {
	.set = offered_set,
	.get = param_get_bool,
};

module_param_cb(offered, &offered_ops, &offered, 0644);
__MODULE_PARM_TYPE(offered, "bool");
MODULE_PARM_DESC(offered, "the address range is reserved and offered to the hypervisor");

static int __init shadowmon_guest_init(void)
{
	int err = 0;

	if (!kvm_para_available()) {
		pr_err("this is no guest of KVM\n");
		return -ENODEV;
	}

	mutex_lock(&offer_lock);
	if (offered) {
		offered = false;
		err = offer();
		if (err == -ENODEV)
			pr_err("the hypervisor knows nothing of ShadowMonitor\n");
		else if (err)
			pr_err("the hypervisor did not take the offer: error %d\n", err);
	}
	running = !err;
	mutex_unlock(&offer_lock);
	return err;
}
module_init(shadowmon_guest_init);

/* Nothing is offered here, unless somebody forced it: then a monitor keeps what it has. */
static void __exit shadowmon_guest_exit(void)
{
	mutex_lock(&offer_lock);
	running = false;
	if (reserved && withdraw())
		pr_warn("a monitor is there: the range stays reserved\n");
	mutex_unlock(&offer_lock);
}
module_exit(shadowmon_guest_exit);

MODULE_DESCRIPTION("Reserves an address range for ShadowMonitor and offers it to KVM");
MODULE_LICENSE("GPL");
