// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: the hidden region, pages that no memslot covers. A file of its own
 * owns them, and mappings hold that file instead of the views fd: so a mapping
 * neither keeps the views alive after the fd was closed nor loses its pages.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>

#include "views/internal.h"
#include "views/views_mmu.h"

static void views_free_pages(struct kvm_views_pages *pages)
{
	u32 i;

	for (i = 0; i < pages->nr; i++) {
		if (pages->page[i])
			put_page(pages->page[i]);
	}
	kvfree(pages);
}

static struct kvm_views_pages *views_alloc_pages(u32 nr)
{
	struct kvm_views_pages *pages;
	u32 i;

	pages = kvzalloc(struct_size(pages, page, nr), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return NULL;

	pages->nr = nr;
	for (i = 0; i < nr; i++) {
		pages->page[i] = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!pages->page[i] || fatal_signal_pending(current)) {
			views_free_pages(pages);
			return NULL;
		}
		cond_resched();
	}
	return pages;
}

static int views_pages_release(struct inode *inode, struct file *file)
{
	views_free_pages(file->private_data);
	return 0;
}

static struct file_operations views_pages_fops = {
	.release = views_pages_release,
	.llseek = noop_llseek,
};

static vm_fault_t views_pages_fault(struct vm_fault *vmf)
{
	struct kvm_views_pages *pages = vmf->vma->vm_file->private_data;

	if (vmf->pgoff >= pages->nr)
		return VM_FAULT_SIGBUS;

	vmf->page = pages->page[vmf->pgoff];
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct views_pages_vm_ops = {
	.fault = views_pages_fault,
};

int kvm_views_map_region(struct kvm_views *views, struct vm_area_struct *vma)
{
	struct kvm_views_pages *pages;
	struct file *file;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;

	spin_lock(&views->kvm_lock);
	file = views->pages_file;
	if (file)
		get_file(file);
	spin_unlock(&views->kvm_lock);
	if (!file)
		return -ENXIO;

	pages = file->private_data;
	if (vma->vm_pgoff + vma_pages(vma) > pages->nr) {
		fput(file);
		return -EINVAL;
	}

	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &views_pages_vm_ops;
	vma_set_file(vma, file);
	fput(file);
	return 0;
}

static void views_free_area(struct kvm_views_area *area)
{
	int view;

	for (view = 0; view < KVM_VIEWS_COUNT; view++)
		kvfree(area->rights[view]);
	kvfree(area->slot.arch.gfn_write_track);
	kfree(area);
}

static struct kvm_views_area *views_alloc_area(gfn_t gfn, u32 nr)
{
	struct kvm_views_area *area = kzalloc(sizeof(*area), GFP_KERNEL_ACCOUNT);
	int view;

	if (!area)
		return NULL;

	area->gfn = gfn;
	area->slot.base_gfn = gfn;
	area->slot.npages = nr;
	area->slot.id = -1;
	area->slot.arch.gfn_write_track =
		kvcalloc(nr, sizeof(*area->slot.arch.gfn_write_track), GFP_KERNEL_ACCOUNT);
	for (view = 0; view < KVM_VIEWS_COUNT; view++)
		area->rights[view] = kvzalloc(nr, GFP_KERNEL_ACCOUNT);

	if (!area->slot.arch.gfn_write_track || !area->rights[KVM_VIEWS_MAIN] ||
	    !area->rights[KVM_VIEWS_SHADOW]) {
		views_free_area(area);
		return NULL;
	}
	return area;
}

static bool views_overlaps_slot(struct kvm *kvm, gfn_t gfn, u32 nr)
{
	struct kvm_memslot_iter iter;
	int as_id, idx;
	bool overlaps = false;

	idx = srcu_read_lock(&kvm->srcu);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++) {
		kvm_for_each_memslot_in_gfn_range(&iter, __kvm_memslots(kvm, as_id),
						  gfn, gfn + nr) {
			overlaps = true;
			break;
		}
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return overlaps;
}

static int views_place_region(struct kvm_views *views, gfn_t gfn, u32 nr)
{
	struct kvm_views_area *area = views_alloc_area(gfn, nr);
	struct file *file;

	if (!area)
		return -ENOMEM;

	area->pages = views_alloc_pages(nr);
	if (!area->pages) {
		views_free_area(area);
		return -ENOMEM;
	}

	views_pages_fops.owner = THIS_MODULE;
	file = anon_inode_getfile("kvm-views-region", &views_pages_fops, area->pages,
				  O_RDWR);
	if (IS_ERR(file)) {
		views_free_pages(area->pages);
		views_free_area(area);
		return PTR_ERR(file);
	}

	spin_lock(&views->kvm_lock);
	views->pages_file = file;
	spin_unlock(&views->kvm_lock);
	rcu_assign_pointer(views->area, area);
	return 0;
}

int kvm_views_set_region(struct kvm_views *views, struct kvm_views_region *arg)
{
	struct kvm_views_info info = { };
	u64 end = arg->gpa + (u64)arg->pages * PAGE_SIZE;
	int r;

	kvm_views_get_info(views, &info);
	if (arg->pad || !arg->pages || arg->pages > KVM_VIEWS_MAX_REGION_PAGES ||
	    !PAGE_ALIGNED(arg->gpa) || end < arg->gpa || end > BIT_ULL(info.phys_bits))
		return -EINVAL;

	mutex_lock(&views->lock);
	if (kvm_views_area(views))
		r = -EEXIST;
	else if (views->state != KVM_VIEWS_STATE_IDLE)
		r = -EBUSY;
	else if (views_overlaps_slot(views->kvm, gpa_to_gfn(arg->gpa), arg->pages))
		r = -EADDRINUSE;
	else
		r = views_place_region(views, gpa_to_gfn(arg->gpa), arg->pages);
	mutex_unlock(&views->lock);
	return r;
}

/*
 * The region was placed where nothing was, but a VMM may put a device's memory
 * where the guest wants it. The region stays what it is; the owner is told.
 */
void kvm_views_new_slot(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	/* Pairs with views_of(). */
	struct kvm_views *views = smp_load_acquire(&kvm->arch.views);
	struct kvm_views_area *area;
	int idx;

	if (!views)
		return;

	idx = srcu_read_lock(&kvm->srcu);
	area = kvm_views_area(views);
	if (area && slot->base_gfn < area->gfn + area->pages->nr &&
	    area->gfn < slot->base_gfn + slot->npages)
		kvm_views_queue_slot_event(views, slot);
	srcu_read_unlock(&kvm->srcu, idx);
}

/* No root maps the region any more. Mappings of user space keep their pages. */
void kvm_views_free_region(struct kvm_views *views)
{
	struct kvm_views_area *area;
	struct file *file;

	lockdep_assert_held(&views->lock);

	area = rcu_replace_pointer(views->area, NULL, lockdep_is_held(&views->lock));
	if (!area)
		return;

	/* Without @kvm the VM is being destroyed, there are no readers. */
	if (views->kvm)
		synchronize_srcu(&views->kvm->srcu);
	views_free_area(area);

	spin_lock(&views->kvm_lock);
	file = views->pages_file;
	views->pages_file = NULL;
	spin_unlock(&views->kvm_lock);
	fput(file);
}

bool __kvm_views_faultin_region(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_views_area *area = kvm_views_area(vcpu->kvm->arch.views);
	struct page *page;

	if (!area || fault->slot != &area->slot)
		return false;

	page = kvm_views_area_page(area, fault->gfn);
	get_page(page);
	fault->pfn = page_to_pfn(page);
	fault->map_writable = true;
	return true;
}
