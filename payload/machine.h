/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real machine, in the shadow view. The symbols are the addresses of abi/layout.h, set by the
 * linker script, and so reached relative to RIP: the compartment lies below what a sign-extended
 * 32-bit address can name.
 */
#ifndef SHADOWMONITOR_PAYLOAD_MACHINE_H
#define SHADOWMONITOR_PAYLOAD_MACHINE_H

#include "abi/config.h"
#include "payload/address.h"

extern "C" {
[[gnu::visibility("hidden")]] extern const sm_config sm_config_page;
[[gnu::visibility("hidden")]] extern const sm_hook sm_hook_table[];
[[gnu::visibility("hidden")]] extern sm_limit sm_limits[];
[[gnu::visibility("hidden")]] extern shadowmon::payload::u8 sm_slots[];
[[gnu::visibility("hidden")]] extern shadowmon::payload::u8 sm_rings[];
}

namespace shadowmon::payload {

class Machine {
  public:
    const sm_config& config() const { return sm_config_page; }
    const sm_hook* hooks() const { return sm_hook_table; }
    sm_limit& limit_of(const sm_hook& hook) const { return sm_limits[hook.id]; }

    /* By arithmetic: slot and ring have the same number. */
    sm_ring& ring_of(const sm_slot& slot) const {
        constexpr u64 rings_per_slot_byte = SM_RING_STRIDE / SM_SLOT_STRIDE;
        const u64 offset = static_cast<u64>(reinterpret_cast<const u8*>(&slot) - sm_slots);
        return *reinterpret_cast<sm_ring*>(sm_rings + offset * rings_per_slot_byte);
    }

    u8* ring_data(sm_ring& ring) const {
        return reinterpret_cast<u8*>(&ring) + SM_RING_DATA_OFFSET;
    }

    u64* counters_of(sm_ring& ring) const {
        return reinterpret_cast<u64*>(reinterpret_cast<u8*>(&ring) + SM_RING_COUNTERS_OFFSET);
    }

    /*
     * Exactly one load, however often the value is used: assembly is not repeated, and, unlike a
     * volatile access, its operand takes any addressing mode.
     */
    template <class T> T load(Gva at) const {
        static_assert(sizeof(T) == 8 || sizeof(T) == 4 || sizeof(T) == 1);
        T value;
        if constexpr (sizeof(T) == 1)
            asm volatile("movb %1, %0" : "=r"(value) : "m"(*reinterpret_cast<const T*>(at)));
        else
            asm volatile("mov %1, %0" : "=r"(value) : "m"(*reinterpret_cast<const T*>(at)));
        return value;
    }

    u64 cr3() const {
        u64 value;
        asm volatile("mov %%cr3, %0" : "=r"(value));
        return value;
    }

    /*
     * RDGSBASE if the guest has it switched on, which costs one instruction and no microcode;
     * else RDMSR, which does not exit either.
     */
    u64 gs_base() const {
        constexpr u64 cr4_fsgsbase = 1u << 16;
        u64 cr4;
        asm volatile("mov %%cr4, %0" : "=r"(cr4));
        if (cr4 & cr4_fsgsbase) [[likely]] {
            u64 value;
            asm volatile("rdgsbase %0" : "=r"(value));
            return value;
        }
        return gs_base_msr();
    }

    /* Parks this vCPU until the owner answers: 0 try again, 1 give up. */
    SM_COLD u64 call_host(u64 number) const {
        u64 answer;
        asm volatile("vmcall" : "=a"(answer) : "b"(number) : "memory");
        return answer;
    }

  private:
    SM_COLD static u64 gs_base_msr() {
        constexpr u32 msr_gs_base = 0xc0000101;
        u32 low, high;
        asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr_gs_base));
        return u64{high} << 32 | low;
    }
};

} // namespace shadowmon::payload

#endif
