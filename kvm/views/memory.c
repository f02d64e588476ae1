// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: guest memory and its layout for the owner, who need not share the
 * VMM's address space.
 */
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "mmu.h"
#include "views/internal.h"

#define VIEWS_MAX_READ	SZ_1M

/* A page of guest RAM, with a reference. The caller holds mm alive and kvm->srcu. */
static struct page *views_get_page(struct kvm *kvm, struct mm_struct *mm, gfn_t gfn)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(kvm, gfn);
	unsigned long hva;
	struct page *page;
	long r;

	if (!slot)
		return ERR_PTR(-ENXIO);
	hva = gfn_to_hva_memslot_prot(slot, gfn, NULL);
	if (kvm_is_error_hva(hva))
		return ERR_PTR(-ENXIO);

	if (mmap_read_lock_killable(mm))
		return ERR_PTR(-EINTR);
	r = get_user_pages_remote(mm, hva, 1, 0, &page, NULL);
	mmap_read_unlock(mm);
	if (r != 1)
		return ERR_PTR(r < 0 ? r : -EFAULT);
	return page;
}

static int views_read_page(struct kvm *kvm, struct mm_struct *mm, gpa_t gpa,
			   void __user *buf, size_t len)
{
	struct page *page;
	void *from;
	int idx, r;

	idx = srcu_read_lock(&kvm->srcu);
	page = views_get_page(kvm, mm, gpa_to_gfn(gpa));
	srcu_read_unlock(&kvm->srcu, idx);
	if (IS_ERR(page))
		return PTR_ERR(page);

	from = kmap_local_page(page);
	r = copy_to_user(buf, from + offset_in_page(gpa), len) ? -EFAULT : 0;
	kunmap_local(from);
	put_page(page);
	return r;
}

int kvm_views_read_mem(struct kvm *kvm, struct kvm_views_mem *arg)
{
	void __user *buf = u64_to_user_ptr(arg->buf);
	int r = 0;

	arg->done = 0;
	if (arg->len > VIEWS_MAX_READ)
		return -EINVAL;
	if (!mmget_not_zero(kvm->mm))
		return -ENODEV;

	/* Cannot wrap: the last page of the address space is never RAM. */
	while (arg->done < arg->len) {
		gpa_t gpa = arg->gpa + arg->done;
		size_t len = min_t(u64, arg->len - arg->done,
				   PAGE_SIZE - offset_in_page(gpa));

		r = views_read_page(kvm, kvm->mm, gpa, buf + arg->done, len);
		if (r)
			break;
		arg->done += len;
		cond_resched();
	}
	mmput(kvm->mm);
	return r;
}

/*
 * Pins a page of guest RAM for writing. Called without kvm->srcu, and maybe
 * from a work item: the VMM's memory may be gone.
 */
struct page *kvm_views_pin(struct kvm *kvm, gpa_t gpa)
{
	struct page *page = ERR_PTR(-ENXIO);
	unsigned long hva;
	int idx;
	long r;

	if (!mmget_not_zero(kvm->mm))
		return ERR_PTR(-ENODEV);

	idx = srcu_read_lock(&kvm->srcu);
	hva = gfn_to_hva(kvm, gpa_to_gfn(gpa));
	if (!kvm_is_error_hva(hva)) {
		mmap_read_lock(kvm->mm);
		r = pin_user_pages_remote(kvm->mm, hva, 1, FOLL_WRITE, &page, NULL);
		mmap_read_unlock(kvm->mm);
		if (r != 1)
			page = ERR_PTR(r < 0 ? r : -EFAULT);
	}
	srcu_read_unlock(&kvm->srcu, idx);

	/* The last user must not tear the address space down from here. */
	mmput_async(kvm->mm);
	return page;
}

void kvm_views_unpin(struct page *page)
{
	if (!IS_ERR_OR_NULL(page))
		unpin_user_pages_dirty_lock(&page, 1, true);
}

int kvm_views_get_slots(struct kvm *kvm, struct kvm_views_slots *arg)
{
	struct kvm_views_slot __user *user = u64_to_user_ptr(arg->slots);
	struct kvm_memslot_iter iter;
	struct kvm_views_slot *slots;
	u32 room = min_t(u32, arg->nr, KVM_USER_MEM_SLOTS);
	u32 nr = 0;
	int idx, r = 0;

	if (arg->pad)
		return -EINVAL;

	slots = kvcalloc(room + 1, sizeof(*slots), GFP_KERNEL_ACCOUNT);
	if (!slots)
		return -ENOMEM;

	idx = srcu_read_lock(&kvm->srcu);
	kvm_for_each_memslot_in_gfn_range(&iter, kvm_memslots(kvm), 0, ~0ull) {
		const struct kvm_memory_slot *slot = iter.slot;

		if (slot->id >= KVM_USER_MEM_SLOTS)
			continue;
		if (nr < room) {
			slots[nr].gpa = gfn_to_gpa(slot->base_gfn);
			slots[nr].size = (u64)slot->npages * PAGE_SIZE;
			slots[nr].hva = slot->userspace_addr;
			if (slot->flags & KVM_MEM_READONLY)
				slots[nr].flags = KVM_VIEWS_SLOT_READONLY;
		}
		nr++;
	}
	srcu_read_unlock(&kvm->srcu, idx);

	if (copy_to_user(user, slots, min(nr, room) * sizeof(*slots)))
		r = -EFAULT;
	else if (nr > room)
		r = -E2BIG;
	arg->nr = nr;
	kvfree(slots);
	return r;
}

static u32 views_phys_bits(struct kvm *kvm)
{
	u32 bits = min_t(u32, kvm_host.maxphyaddr,
			 kvm_mmu_get_max_tdp_level() == 5 ? 57 : 48);
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		bits = min_t(u32, bits, vcpu->arch.maxphyaddr);
		if (vcpu->arch.root_mmu.root_role.level == 4)
			bits = min_t(u32, bits, 48);
	}
	return bits;
}

void kvm_views_get_info(struct kvm_views *views, struct kvm_views_info *info)
{
	struct kvm *kvm = views->kvm;
	struct kvm_memslot_iter iter;
	struct kvm_views_area *area;
	int idx;

	info->nr_vcpus = atomic_read(&kvm->online_vcpus);
	info->phys_bits = views_phys_bits(kvm);

	idx = srcu_read_lock(&kvm->srcu);
	kvm_for_each_memslot_in_gfn_range(&iter, kvm_memslots(kvm), 0, ~0ull) {
		const struct kvm_memory_slot *slot = iter.slot;

		info->ram_end = gfn_to_gpa(slot->base_gfn + slot->npages);
		if (slot->id < KVM_USER_MEM_SLOTS)
			info->nr_slots++;
	}
	area = kvm_views_area(views);
	if (area) {
		info->region_gpa = gfn_to_gpa(area->gfn);
		info->region_pages = area->pages->nr;
	}
	srcu_read_unlock(&kvm->srcu, idx);

	info->state = READ_ONCE(views->state);
}
