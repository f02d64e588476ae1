// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "tests/kvm/lib/layout.h"

#include <array>
#include <cstddef>
#include <cstdint>

/// The blobs of guest.S and region.S as they lie in this program. Only their addresses count.
extern "C" {
#define SM_SYMBOL(name) extern const uint8_t name[]
SM_SYMBOL(guest_text_begin);
SM_SYMBOL(guest_text_end);
SM_SYMBOL(guest_vectors);
SM_SYMBOL(guest_done);
SM_SYMBOL(guest_read8);
SM_SYMBOL(guest_read1);
SM_SYMBOL(guest_read2);
SM_SYMBOL(guest_read4);
SM_SYMBOL(guest_read16);
SM_SYMBOL(guest_rorx8);
SM_SYMBOL(guest_movlps8);
SM_SYMBOL(guest_write1);
SM_SYMBOL(guest_write2);
SM_SYMBOL(guest_write4);
SM_SYMBOL(guest_write16);
SM_SYMBOL(guest_sgdt);
SM_SYMBOL(guest_write8);
SM_SYMBOL(guest_xchg8);
SM_SYMBOL(guest_cmpxchg8);
SM_SYMBOL(guest_stos);
SM_SYMBOL(guest_movs);
SM_SYMBOL(guest_movsb);
SM_SYMBOL(guest_ins);
SM_SYMBOL(guest_jump);
SM_SYMBOL(guest_return_value);
SM_SYMBOL(guest_vmfunc);
SM_SYMBOL(guest_vmcall);
SM_SYMBOL(guest_hypercall);
SM_SYMBOL(guest_int20);
SM_SYMBOL(guest_hook_loop);
SM_SYMBOL(guest_hook_site);
SM_SYMBOL(guest_patch_loop);
SM_SYMBOL(guest_patch_site);
SM_SYMBOL(guest_count_loop);
SM_SYMBOL(guest_check_pages);
SM_SYMBOL(guest_write_pages);
SM_SYMBOL(guest_halt);
SM_SYMBOL(guest_halt_masked);
SM_SYMBOL(guest_sti_spin);
SM_SYMBOL(guest_notify);
SM_SYMBOL(guest_spin);
SM_SYMBOL(guest_x2apic_on);
SM_SYMBOL(guest_send_ipi);
SM_SYMBOL(guest_vmxon);
SM_SYMBOL(guest_vmxoff);
SM_SYMBOL(guest_return_later);
SM_SYMBOL(guest_user_count);
SM_SYMBOL(guest_user_vmfunc);
SM_SYMBOL(guest_user_after_vmfunc);

SM_SYMBOL(region_text_begin);
SM_SYMBOL(region_text_end);
SM_SYMBOL(gate_leave);
SM_SYMBOL(gate_round_trips);
SM_SYMBOL(gate_no_trips);
SM_SYMBOL(gate_read);
SM_SYMBOL(gate_write);
SM_SYMBOL(gate_check_pages);
SM_SYMBOL(gate_spin);
SM_SYMBOL(gate_spin_sti);
SM_SYMBOL(gate_spin_sti_inside);
SM_SYMBOL(gate_spin_sti_back);
SM_SYMBOL(gate_vmcall);
SM_SYMBOL(gate_vmcall_site);
SM_SYMBOL(gate_escape);
SM_SYMBOL(gate_escape_ve);
SM_SYMBOL(gate_ve);
SM_SYMBOL(gate_int20);
SM_SYMBOL(gate_int20_spin);
SM_SYMBOL(gate_int20_table);
SM_SYMBOL(gate_call_shadow);
SM_SYMBOL(region_secret);
#undef SM_SYMBOL
}

namespace shadowmon::kvmtest {

constexpr uint64_t page_size = TG_PAGE_SIZE;
constexpr uint32_t return_value = 0x600d;   ///< what guest_return_value returns
constexpr uint32_t secret_value = 0x5ec7e7; ///< what region_secret returns

/// Where a function of guest.S is in the guest (virtual and physical address are the same).
inline Gva guest_function(const uint8_t* symbol) {
    return Gva{TG_TEXT_GPA + static_cast<uint64_t>(symbol - guest_text_begin)};
}
inline Gpa guest_text_gpa(const uint8_t* symbol) { return Gpa{guest_function(symbol).value}; }

/// Where a function of region.S is in the guest: in the gate page.
inline Gva gate_function(const uint8_t* symbol) {
    return Gva{TG_REGION_GVA + static_cast<uint64_t>(symbol - region_text_begin)};
}

constexpr Gva region_gva(uint32_t page, uint32_t offset = 0) {
    return Gva{TG_REGION_GVA + page * page_size + offset};
}

/// The page that a vCPU's GS base points to.
struct GuestContext {
    uint64_t vector;
    uint64_t error;
    uint64_t rip;
    uint64_t cr2;
    uint64_t stack;
    uint64_t nmis;
    uint64_t irqs;
    uint64_t eoi;
    uint64_t cs;
    uint64_t interrupts;
    uint8_t unused[TG_CTX_LOG - 80];
    uint64_t log[TG_CTX_LOG_MASK + 1];
};
static_assert(offsetof(GuestContext, vector) == TG_CTX_VECTOR);
static_assert(offsetof(GuestContext, error) == TG_CTX_ERROR);
static_assert(offsetof(GuestContext, rip) == TG_CTX_RIP);
static_assert(offsetof(GuestContext, cr2) == TG_CTX_CR2);
static_assert(offsetof(GuestContext, stack) == TG_CTX_STACK);
static_assert(offsetof(GuestContext, nmis) == TG_CTX_NMIS);
static_assert(offsetof(GuestContext, irqs) == TG_CTX_IRQS);
static_assert(offsetof(GuestContext, eoi) == TG_CTX_EOI);
static_assert(offsetof(GuestContext, cs) == TG_CTX_CS);
static_assert(offsetof(GuestContext, interrupts) == TG_CTX_INTERRUPTS);
static_assert(offsetof(GuestContext, log) == TG_CTX_LOG);
static_assert(sizeof(GuestContext) <= page_size);

/// The region's data page.
struct RegionData {
    uint64_t events;
    uint64_t inside;
    uint64_t release;
    uint64_t ve_count;
    uint64_t resume;
    uint8_t unused[24];
    struct {
        uint32_t reason;
        uint32_t busy;
        uint64_t qualification;
        uint64_t gla;
        uint64_t gpa;
        uint16_t view;
        uint8_t unused[6];
    } ve;
    uint8_t unused2[24];
    uint64_t stack;
};
static_assert(offsetof(RegionData, events) == TG_DATA_EVENTS);
static_assert(offsetof(RegionData, inside) == TG_DATA_INSIDE);
static_assert(offsetof(RegionData, release) == TG_DATA_RELEASE);
static_assert(offsetof(RegionData, ve_count) == TG_DATA_VE_COUNT);
static_assert(offsetof(RegionData, resume) == TG_DATA_RESUME);
static_assert(offsetof(RegionData, ve) == TG_DATA_VE_COPY);
static_assert(offsetof(RegionData, stack) == TG_DATA_STACK);

/// What the loops of guest.S take: they run until stop is set.
struct LoopControl {
    uint64_t stop;
    uint64_t count;
    uint64_t errors;
    uint64_t first_error;
};

} // namespace shadowmon::kvmtest
