/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real machine, in the shadow view. The symbols are the addresses of abi/layout.h, set by the
 * linker script, and so reached relative to RIP: the compartment lies below what a sign-extended
 * 32-bit address can name.
 */
#ifndef SHADOWMONITOR_PAYLOAD_MACHINE_H
#define SHADOWMONITOR_PAYLOAD_MACHINE_H

#include "abi/config.h"
#include "payload/saved_regs.h"

extern "C" {
[[gnu::visibility("hidden")]] extern const sm_config sm_config_page;
[[gnu::visibility("hidden")]] extern const sm_hook sm_hook_table[];
[[gnu::visibility("hidden")]] extern const sm_hook* const sm_hook_table_at;
[[gnu::visibility("hidden")]] extern sm_limit sm_limits[];
[[gnu::visibility("hidden")]] extern uint64_t sm_irq_counts[];
}

namespace shadowmon::payload {

class Machine {
  public:
    const sm_config& config() const { return sm_config_page; }
    const sm_hook* hooks() const { return sm_hook_table; }
    const sm_hook* hook_at(u64 offset) const {
        asm("add %1, %0" : "+r"(offset) : "m"(sm_hook_table_at) : "cc");
        return reinterpret_cast<const sm_hook*>(offset);
    }
    u64 offset_of(const sm_hook* hook) const {
        u64 offset = reinterpret_cast<u64>(hook);
        asm("sub %1, %0" : "+r"(offset) : "m"(sm_hook_table_at) : "cc");
        return offset;
    }
    sm_limit& limit_of(const sm_hook& hook) const { return sm_limits[hook.id]; }

    const SavedRegs& saved_regs(const sm_slot& slot) const {
        const auto* top = reinterpret_cast<const u8*>(&slot) + SM_SLOT_STACK_TOP;
        return *reinterpret_cast<const SavedRegs*>(top - sizeof(SavedRegs));
    }

    sm_ring& ring_of(const sm_slot& slot) const { return *reinterpret_cast<sm_ring*>(slot.ring); }

    u8* ring_data(sm_ring& ring) const {
        return reinterpret_cast<u8*>(&ring) + SM_RING_DATA_OFFSET;
    }

    u64* counters_of(sm_ring& ring) const {
        return reinterpret_cast<u64*>(reinterpret_cast<u8*>(&ring) + SM_RING_COUNTERS_OFFSET);
    }

    /* Of the CPU by its number; a guest that lies about it only spoils its own count. */
    u64& irq_count(u32 aux) const { return sm_irq_counts[aux % SM_MAX_VCPUS]; }

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

    /* The same of 32 bits, as 64: the upper half needs no instruction of its own. */
    u64 load_u32(Gva at) const {
        u64 value;
        asm volatile("movl %1, %k0" : "=r"(value) : "m"(*reinterpret_cast<const u32*>(at)));
        return value;
    }

    /*
     * The same from base + from_base + offset, which is a constant, and the last one of an int. Of
     * an address that is used more than once the compiler would make the sum first.
     */
    template <class T> T load(Gva base, u64 from_base, u64 offset) const {
        static_assert(sizeof(T) == 8);
        T value;
        asm volatile("mov %c3(%1, %2), %0" : "=r"(value) : "r"(base), "r"(from_base), "i"(offset));
        return value;
    }
    u64 load_int(Gva base, u64 from_base, u64 offset) const {
        u64 value;
        asm volatile("movslq %c3(%1, %2), %0"
                     : "=r"(value)
                     : "r"(base), "r"(from_base), "i"(offset));
        return value;
    }

    /*
     * at - derived.start, and whether that is below derived.limit: so written that the two stay in
     * memory, where an instruction can name them, and leave the registers to others.
     */
    u64 from_start(u64 at) const {
        asm("sub %1, %0" : "+r"(at) : "m"(config().derived.start) : "cc");
        return at;
    }
    bool is_below_limit(u64 from_start) const {
        bool below;
        asm("cmp %2, %1" : "=@ccb"(below) : "r"(from_start), "m"(config().derived.limit));
        return below;
    }

    u32 tsc_aux() const {
        u32 low, high, aux;
        asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
        return aux;
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

    /*
     * Parks this vCPU until the owner answers: 0 try again, 1 give up. The number goes in rbx,
     * which no code of the payload uses.
     */
    SM_COLD u64 call_host(u64 number) const {
        u64 answer;
        asm volatile("xchg %%rbx, %1; vmcall; xchg %%rbx, %1"
                     : "=a"(answer), "+r"(number)
                     :
                     : "memory");
        return answer;
    }

  private:
    /* Keeps every register but the one of the result: on the way of an event there is no call. */
    static u64 gs_base_msr() {
        u64 value;
        asm volatile("push %%rax; push %%rax; push %%rcx; push %%rdx;"
                     "mov $0xc0000101, %%ecx; rdmsr; shl $32, %%rdx; or %%rdx, %%rax;"
                     "mov %%rax, 24(%%rsp);"
                     "pop %%rdx; pop %%rcx; pop %%rax; pop %0"
                     : "=r"(value)
                     :
                     : "cc");
        return value;
    }
};

} // namespace shadowmon::payload

#endif
