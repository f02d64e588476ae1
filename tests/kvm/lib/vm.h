// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/kvm/lib/fd.h"
#include "tests/kvm/lib/guest.h"
#include "tests/kvm/lib/vcpu.h"

#include <memory>
#include <span>
#include <vector>

namespace shadowmon::kvmtest {

/// How a page-table entry of the guest is built.
constexpr uint64_t pte_present = 1 << 0;
constexpr uint64_t pte_write = 1 << 1;
constexpr uint64_t pte_user = 1 << 2;
constexpr uint64_t pte_accessed = 1 << 5;
constexpr uint64_t pte_dirty = 1 << 6;
constexpr uint64_t pte_large = 1 << 7;
constexpr uint64_t pte_kernel_page = pte_present | pte_write | pte_accessed | pte_dirty;

struct VmOptions {
    unsigned vcpus = 1;
    bool irqchip = false;
    /// Backing of RAM: shared (memfd), or private anonymous memory, which can be copied on write,
    /// moved and made of huge pages.
    bool anonymous = false;
    /// Entries of each vCPU's dirty ring, a power of two; 0: dirty bitmaps.
    unsigned dirty_ring = 0;
};

/// A small VM straight on /dev/kvm: one memslot of RAM at 0, the guest of guest.S in 64-bit mode
/// with its page tables built, vCPUs ready to be called. Lives in the process of the test.
class Vm {
  public:
    explicit Vm(VmOptions options = {});
    Vm(const Vm&) = delete;
    ~Vm();

    int fd() const { return vm_.get(); }
    bool irqchip() const { return options_.irqchip; }
    Vcpu& vcpu(unsigned index) { return *vcpus_.at(index); }
    unsigned nr_vcpus() const { return vcpus_.size(); }
    /// One more, while others run.
    Vcpu& add_vcpu();

    /// Guest RAM as the VMM has it mapped.
    uint8_t* ram(Gpa gpa, uint64_t size = 1) const;
    template <typename T> T& at(Gpa gpa) const {
        return *reinterpret_cast<T*>(ram(gpa, sizeof(T)));
    }
    template <typename T> T& at(uint64_t gpa) const { return at<T>(Gpa{gpa}); }
    std::span<uint8_t> ram_span(Gpa gpa, uint64_t size) const { return {ram(gpa, size), size}; }
    GuestContext& context(unsigned vcpu) const;

    /// A message to a local APIC of the in-kernel irqchip, by its id: an interrupt, NMI or INIT.
    enum class Delivery : uint32_t { fixed = 0, nmi = 4, init = 5 };
    void send_message(uint32_t apic_id, Delivery delivery, uint8_t vector = 0);

    /// A memslot; size 0 deletes it. Returns 0 or -errno.
    int set_slot(uint32_t slot, Gpa gpa, void* memory, uint64_t size, uint32_t flags = 0);
    std::vector<uint64_t> dirty_log(uint32_t slot, uint64_t size);

    /// Writes the guest's own page tables so that the region's pages appear at TG_REGION_GVA.
    void map_region_in_guest(Gpa region, uint32_t pages);
    void unmap_region_in_guest();
    /// Points an IDT entry to a function; ring 3 may use it.
    void set_gate(unsigned vector, Gva handler);
    static std::array<uint8_t, 16> gate_descriptor(Gva handler);

  private:
    void build_guest();

    VmOptions options_;
    Fd kvm_;
    Fd vm_;
    Mapping ram_;
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

constexpr uint32_t ram_slot = 0;

} // namespace shadowmon::kvmtest
