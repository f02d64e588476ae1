// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/vm.h"

#include "tests/kvm/lib/check.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace shadowmon::kvmtest {

Vm::Vm(VmOptions options) : options_(options) {
    kvm_ = Fd(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm_.valid())
        skip("no /dev/kvm: %m");
    vm_ = Fd(SM_CHECK_SYS(ioctl(kvm_.get(), KVM_CREATE_VM, 0)));
    if (options.irqchip)
        SM_CHECK_SYS(ioctl(vm_.get(), KVM_CREATE_IRQCHIP, 0));
    if (options.dirty_ring) {
        kvm_enable_cap cap{};
        cap.cap = KVM_CAP_DIRTY_LOG_RING;
        cap.args[0] = options.dirty_ring * sizeof(kvm_dirty_gfn);
        SM_CHECK_SYS(ioctl(vm_.get(), KVM_ENABLE_CAP, &cap));
    }

    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    Fd file;
    if (!options.anonymous) {
        file = Fd(SM_CHECK_SYS(memfd_create("guest-ram", MFD_CLOEXEC)));
        SM_CHECK_SYS(ftruncate(file.get(), TG_RAM_SIZE));
        flags = MAP_SHARED;
    }
    // Aligned to 2 MiB, so that the slot can be backed and mapped by large pages.
    constexpr uint64_t alignment = 0x200000;
    void* reserve = mmap(nullptr, TG_RAM_SIZE + alignment, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SM_CHECK(reserve != MAP_FAILED);
    auto start = reinterpret_cast<uintptr_t>(reserve);
    auto aligned = (start + alignment - 1) & ~(alignment - 1);
    if (aligned > start)
        munmap(reserve, aligned - start);
    if (start + alignment > aligned)
        munmap(reinterpret_cast<void*>(aligned + TG_RAM_SIZE), start + alignment - aligned);
    void* ram = mmap(reinterpret_cast<void*>(aligned), TG_RAM_SIZE, PROT_READ | PROT_WRITE,
                     flags | MAP_FIXED, file.get(), 0);
    if (ram == MAP_FAILED)
        SM_FAIL("mmap of guest RAM: %m");
    ram_ = Mapping(ram, TG_RAM_SIZE);
    if (options.anonymous)
        madvise(ram, TG_RAM_SIZE, MADV_HUGEPAGE); // Fails harmlessly without THP.
    SM_CHECK_EQ(set_slot(ram_slot, Gpa{0}, ram, TG_RAM_SIZE), 0, "the RAM slot is accepted");

    build_guest();
    for (unsigned i = 0; i < options.vcpus; i++)
        add_vcpu();
}

Vm::~Vm() = default;

Vcpu& Vm::add_vcpu() {
    SM_CHECK(vcpus_.size() < TG_MAX_VCPUS);
    vcpus_.push_back(std::make_unique<Vcpu>(*this, kvm_.get(), vcpus_.size()));
    return *vcpus_.back();
}

uint8_t* Vm::ram(Gpa gpa, uint64_t size) const {
    SM_CHECK(gpa.value <= TG_RAM_SIZE && size <= TG_RAM_SIZE - gpa.value);
    return ram_.bytes() + gpa.value;
}

GuestContext& Vm::context(unsigned vcpu) const {
    return at<GuestContext>(TG_CONTEXT_GPA + vcpu * page_size);
}

void Vm::send_message(uint32_t apic_id, Delivery delivery, uint8_t vector) {
    constexpr uint32_t level_assert = 1 << 14;
    kvm_msi message{};
    message.address_lo = 0xfee00000 | apic_id << 12; // physical destination
    message.data = vector | static_cast<uint32_t>(delivery) << 8 | level_assert;
    // 0: it went to nobody.
    SM_CHECK(SM_CHECK_SYS(ioctl(vm_.get(), KVM_SIGNAL_MSI, &message)) > 0);
}

int Vm::set_slot(uint32_t slot, Gpa gpa, void* memory, uint64_t size, uint32_t flags) {
    kvm_userspace_memory_region region{};
    region.slot = slot;
    region.flags = flags;
    region.guest_phys_addr = gpa.value;
    region.memory_size = size;
    region.userspace_addr = reinterpret_cast<uint64_t>(memory);
    return ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

std::vector<uint64_t> Vm::dirty_log(uint32_t slot, uint64_t size) {
    std::vector<uint64_t> bitmap((size / page_size + 63) / 64);
    kvm_dirty_log log{};
    log.slot = slot;
    log.dirty_bitmap = bitmap.data();
    SM_CHECK_SYS(ioctl(vm_.get(), KVM_GET_DIRTY_LOG, &log));
    return bitmap;
}

void Vm::map_region_in_guest(Gpa region, uint32_t pages) {
    SM_CHECK(pages <= TG_REGION_MAX_PAGES);
    auto* table = &at<uint64_t>(TG_PT_REGION_GPA);
    for (uint32_t i = 0; i < TG_REGION_MAX_PAGES; i++)
        table[i] = i < pages ? (region.value + i * page_size) | pte_kernel_page : 0;
    at<uint64_t>(TG_PD_REGION_GPA) = TG_PT_REGION_GPA | pte_kernel_page;
    at<uint64_t>(TG_PDPT_HIGH_GPA + TG_REGION_PUD_INDEX * 8) = TG_PD_REGION_GPA | pte_kernel_page;
}

void Vm::unmap_region_in_guest() { at<uint64_t>(TG_PDPT_HIGH_GPA + TG_REGION_PUD_INDEX * 8) = 0; }

std::array<uint8_t, 16> Vm::gate_descriptor(Gva handler) {
    uint64_t low = (handler.value & 0xffff) | (uint64_t{TG_CODE_SELECTOR} << 16) |
                   (uint64_t{0xee00} << 32) | ((handler.value >> 16 & 0xffff) << 48);
    uint64_t high = handler.value >> 32;
    std::array<uint8_t, 16> bytes;
    memcpy(bytes.data(), &low, 8);
    memcpy(bytes.data() + 8, &high, 8);
    return bytes;
}

void Vm::set_gate(unsigned vector, Gva handler) {
    auto descriptor = gate_descriptor(handler);
    memcpy(ram(Gpa{TG_IDT_GPA + vector * 16ull}, 16), descriptor.data(), 16);
}

void Vm::build_guest() {
    auto size = static_cast<size_t>(guest_text_end - guest_text_begin);
    memcpy(ram(Gpa{TG_TEXT_GPA}, size), guest_text_begin, size);

    constexpr uint64_t table_flags = pte_kernel_page | pte_user;
    at<uint64_t>(TG_PML4_GPA) = TG_PDPT_LOW_GPA | table_flags;
    at<uint64_t>(TG_PML4_GPA + 511 * 8) = TG_PDPT_HIGH_GPA | table_flags;
    at<uint64_t>(TG_PDPT_LOW_GPA) = TG_PD_LOW_GPA | table_flags;
    for (uint64_t i = 0; i < 512; i++)
        at<uint64_t>(TG_PD_LOW_GPA + i * 8) = (i * 0x200000) | table_flags | pte_large;

    auto* gdt = &at<uint64_t>(TG_GDT_GPA);
    gdt[TG_CODE_SELECTOR / 8] = 0x00af9b000000ffff;
    gdt[TG_DATA_SELECTOR / 8] = 0x00cf93000000ffff;
    gdt[TG_USER_DATA_SELECTOR / 8] = 0x00cff3000000ffff;
    gdt[TG_USER_CODE_SELECTOR / 8] = 0x00affb000000ffff;
    for (uint64_t i = 0; i < TG_MAX_VCPUS; i++) {
        uint64_t base = TG_TSS_GPA + i * 0x80;
        gdt[TG_TSS_SELECTOR / 8 + 2 * i] =
            0x67 | (base & 0xffffff) << 16 | uint64_t{0x8b} << 40 | (base >> 24 & 0xff) << 56;
        gdt[TG_TSS_SELECTOR / 8 + 2 * i + 1] = base >> 32;
        // Stack for an exception in ring 3.
        uint64_t stack = TG_STACK_GPA + (i + 1) * TG_STACK_SIZE - 0x1000;
        memcpy(ram(Gpa{base + 4}, 8), &stack, 8);
    }
    for (unsigned vector = 0; vector < 256; vector++)
        set_gate(vector, guest_function(guest_vectors) + vector * 16);
}

} // namespace shadowmon::kvmtest
