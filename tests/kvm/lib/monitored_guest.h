// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/compartment/compartment.h"
#include "src/compartment/page_tables.h"
#include "src/events/ring_reader.h"
#include "tests/kvm/lib/test.h"

#include <string>
#include <vector>

namespace shadowmon::kvmtest {

template <typename T> T must(Result<T> result) {
    if (!result)
        SM_FAIL("%s", result.error().message().c_str());
    return std::move(*result);
}

/// Position-independent guest code that has hooks in it, as it lies in this program.
struct GuestText {
    const uint8_t* begin;
    const uint8_t* end;
};

/// Where a hook goes. An INT displaces [site, end), which is one instruction of at least two bytes
/// that runs the same anywhere; a CALL stands in the place of a NOP of five bytes.
struct HookSite {
    uint32_t id;
    const uint8_t* site;
    const uint8_t* end;
    bool is_call;
    uint16_t type = SM_EVENT_HOOK;
};

/// A small VM as shadowmon has it: code with hooks where a kernel's text is, what the payload
/// reads of a kernel (task, pt_regs, per-CPU area), and payload.elf loaded as shadowmon loads it.
/// attach() does to the guest what a session does, in one batch of patches; detach() closes the
/// views fd, and it can be attached to again.
class MonitoredGuest {
  public:
    struct Options {
        VmOptions vm;
        uint32_t slots = 2;
        uint32_t ring_size = 1 << 16;
    };
    MonitoredGuest(GuestText text, const std::vector<HookSite>& sites, Options options);

    void attach();
    void detach() { views_.close(); }

    Vm& vm() { return vm_; }
    Views& views() { return views_; }
    const PayloadImage& payload() const { return payload_; }

    /// Guest text is in two places: low, as all of RAM, and where it runs.
    Gva function(const uint8_t* symbol) const { return Gva{high_half + gpa(symbol).value}; }
    Gpa gpa(const uint8_t* symbol) const {
        return Gpa{text_gpa + static_cast<uint64_t>(symbol - text_.begin)};
    }
    /// An address of the guest or of the compartment by name, for messages.
    std::string name_of(uint64_t rip) const;

    /// The hook's bytes as they are in the guest now, and whether they are ours.
    bool is_hooked(const HookSite& site);
    /// Nothing of the monitor is in the guest's memory.
    bool is_clean();
    /// Puts the hook in or takes it out; returns how many vCPUs are inside.
    uint32_t patch_in(const HookSite& site);
    uint32_t take_out(const HookSite& site);

    uint32_t slots() const { return layout_.geometry().slots; }
    sm_slot& slot(uint32_t index) { return *slot_in(layout_, region_, index); }
    sm_ring& ring(uint32_t index) { return *ring_in(layout_, region_, index); }
    sm_hook& hook(uint32_t id);
    /// How often the gate has found every slot taken.
    uint64_t no_slot();
    std::vector<RingReader>& rings() { return rings_; }
    std::vector<RingReader> make_rings();
    /// All that the rings hold, ring by ring; fatal if one is broken.
    std::vector<Record> take_records();

    // The guest's "kernel data"; guest-virtual and guest-physical are the same there.
    static constexpr uint64_t text_gpa = TG_DATA_GPA;
    static constexpr uint64_t task_gpa = TG_DATA_GPA + 0x20000;
    static constexpr uint64_t next_task_gpa = TG_DATA_GPA + 0x30000;
    static constexpr uint64_t parent_gpa = TG_DATA_GPA + 0x40000;
    static constexpr uint64_t cred_gpa = TG_DATA_GPA + 0x50000;
    /// Free for the test.
    static constexpr uint64_t free_gpa = TG_DATA_GPA + 0x60000;
    static constexpr uint64_t current_offset = 0x800; // in the context page, which is the GS base
    /// pt_regs at the low end of a stack's 16 KiB, which the few calls here never reach.
    static constexpr uint64_t regs_at(unsigned vcpu) {
        return TG_STACK_GPA + vcpu * TG_STACK_SIZE + 0x100;
    }
    static constexpr uint64_t high_half = 0xffffffff80000000;

  private:
    struct Hooked {
        HookSite site;
        std::vector<uint8_t> old;
        std::vector<uint8_t> bytes;
        uint64_t resume_if1 = 0, resume_if0 = 0;
    };

    void build_guest();
    std::vector<uint8_t> patched_pages();
    void fill();
    void build_displaced(Hooked& hooked, std::vector<uint8_t>& code);
    void write_task(uint64_t at, uint32_t pid, const char* comm);
    Hooked& hooked(uint32_t id);
    kvm_views_patch patch_of(const Hooked& hooked) const;

    GuestText text_;
    Vm vm_;
    Views views_;
    PayloadImage payload_;
    Layout layout_;
    Gpa region_gpa_{0x2'4000'0000};
    Mapping map_;
    std::span<std::byte> region_;
    std::vector<RingReader> rings_;
    std::vector<Hooked> hooks_;
    std::vector<uint8_t> unmonitored_; ///< page tables, IDT and text as they are without monitor
};

} // namespace shadowmon::kvmtest
