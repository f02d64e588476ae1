/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The only way in which the payload reads guest memory. It cannot fault:
 *
 * - windows of the configuration (direct map, kernel image) are mapped as long as the guest
 *   lives; an address is compared with them and read as it is;
 * - the stack that the hook was hit on: the CPU has just written an interrupt frame there, and
 *   kernel stacks are 16 KiB and so aligned;
 * - everything else is looked up in the guest's page tables, and what is found is read through
 *   the direct map. Every address taken from a table is compared with the windows again.
 *
 * Two classes with one shape. DirectMemory does the first window and the stack, in few
 * instructions, and says of everything else that it cannot. AnyMemory does all. A Place is a
 * range of guest memory to load fields from; each load reads its value once.
 */
#ifndef SHADOWMONITOR_PAYLOAD_GUEST_MEMORY_H
#define SHADOWMONITOR_PAYLOAD_GUEST_MEMORY_H

#include "abi/config.h"
#include "payload/address.h"

namespace shadowmon::payload {

/* Kernel stacks of x86-64 Linux are at least this big and aligned to it. */
inline constexpr u64 stack_block_size = 0x4000;

inline bool is_in_window(const sm_window& window, Gva at, u32 size) {
    u64 last;
    return !__builtin_sub_overflow(window.size, u64{size}, &last) && raw(at) - window.start <= last;
}

/* Is [at, at + size) in the same 16 KiB block as stack? */
inline bool is_in_stack_block(Gva stack, Gva at, u32 size) {
    return raw(at) - (raw(stack) & ~(stack_block_size - 1)) <= stack_block_size - size;
}

/*
 * An interrupt frame of this end (bytes from stack) was written by the CPU, so it lies on a kernel
 * stack, which is above the start of the direct map; it is taken as mapped as far as its 16 KiB
 * block goes. Who jumps into the gate with a stack pointer of his own fails here, if the address
 * is no address at all, or faults in his own page tables.
 */
inline bool is_frame_on_stack(const sm_config& config, Gva stack, u32 end) {
    /* Where in its block the stack is, in the upper bits of 32: one multiplication, no mask. */
    constexpr u32 to_top = (u64{1} << 32) / stack_block_size;
    u32 in_block;
    asm("imull %2, %1, %0"
        : "=r"(in_block)
        : "r"(static_cast<u32>(raw(stack))), "i"(to_top)
        : "cc");
    return raw(stack) >= config.direct_map && in_block <= (stack_block_size - end) * to_top;
}

template <class Hw> class DirectMemory {
  public:
    /* Not everything that can be read: who is told no has to ask AnyMemory. */
    static constexpr bool is_complete = false;

    class Place {
      public:
        Place(const Hw& hw, Gva at, bool ok) : hw_(hw), at_(at), ok_(ok) {}
        bool ok() const { return ok_; }
        template <class T> bool load(u64 offset, T* out) const {
            *out = hw_.template load<T>(at_ + offset);
            return true;
        }
        /* The same of 32 bits, as 64. */
        bool load_u32(u64 offset, u64* out) const {
            *out = hw_.load_u32(at_ + offset);
            return true;
        }

      private:
        const Hw& hw_;
        const Gva at_;
        const bool ok_;
    };

    /*
     * A place in the block of the stack: named from its start, so that no register has its address.
     */
    class StackPlace {
      public:
        StackPlace(const Hw& hw, u64 block, u64 at, u32 size)
            : hw_(hw), block_(block), from_block_(difference(at, block)),
              ok_(from_block_ <= stack_block_size - size) {}
        bool ok() const { return ok_; }
        template <class T> bool load(u64 offset, T* out) const {
            *out = hw_.template load<T>(Gva{block_}, from_block_, offset);
            return true;
        }
        template <class T> bool load_int(u64 offset, T* out) const {
            *out = hw_.load_int(Gva{block_}, from_block_, offset);
            return true;
        }

      private:
        /* Which the compiler cannot turn back into at. */
        static u64 difference(u64 at, u64 block) {
            asm("sub %1, %0" : "+r"(at) : "r"(block) : "cc");
            return at;
        }

        const Hw& hw_;
        const u64 block_, from_block_;
        const bool ok_;
    };

    DirectMemory(const Hw& hw, Gva stack) : hw_(hw), stack_(stack) {}

    Gva stack() const { return stack_; }

    Place frame(u32 end) const {
        return {hw_, stack_, is_frame_on_stack(hw_.config(), stack_, end)};
    }
    /* A frame that was ok(), once more. */
    Place same_frame() const { return {hw_, stack_, true}; }
    StackPlace on_stack(Gva at, u32 size) const {
        return {hw_, raw(stack_) & ~(stack_block_size - 1), raw(at), size};
    }

    /*
     * A task, or something smaller of which as much is asked: one limit for all of them, and one
     * subtraction, from where the fields are named by what the host has added up (sm_derived).
     * The few addresses near the window's end go the other way.
     */
    Place object(Gva at) const { return relative(hw_.from_start(raw(at))); }

    /* One field, to be loaded at offset field_base(). distance: one of the next three. */
    Place field(u64 at, u64 distance) const { return relative(at + distance); }
    u64 field_base() const { return fields().start; }
    u64 current_task() const { return fields().current_task; } /* from GS base */
    u64 parent_tgid() const { return fields().parent_tgid; }
    u64 cred_uid() const { return fields().cred_uid; }

    const sm_derived& fields() const { return hw_.config().derived; }

  private:
    Place relative(u64 from_start) const {
        return {hw_, Gva{from_start}, hw_.is_below_limit(from_start)};
    }

    const Hw& hw_;
    const Gva stack_;
};

template <class Hw> class AnyMemory {
  public:
    static constexpr bool is_complete = true;

    class Place {
      public:
        Place(const AnyMemory& memory, Gva at) : memory_(memory), at_(at) {}
        bool ok() const { return true; }
        template <class T> bool load(u64 offset, T* out) const {
            return memory_.copy(at_ + offset, out, sizeof(T));
        }
        template <class T> bool load_int(u64 offset, T* out) const {
            s32 value;
            if (!load(offset, &value))
                return false;
            *out = static_cast<u64>(s64{value});
            return true;
        }
        bool load_u32(u64 offset, u64* out) const {
            u32 value;
            if (!load(offset, &value))
                return false;
            *out = value;
            return true;
        }

      private:
        const AnyMemory& memory_;
        const Gva at_;
    };

    AnyMemory(const Hw& hw, Gva stack) : hw_(hw), stack_(stack) {}

    Gva stack() const { return stack_; }

    /* The stack counts as mapped only from here on, and only if the frame says so. */
    Place frame(u32 end) {
        is_stack_mapped_ = is_frame_on_stack(hw_.config(), stack_, end);
        return {*this, stack_};
    }
    Place same_frame() const { return {*this, stack_}; }
    Place on_stack(Gva at, u32) const { return {*this, at}; }
    Place object(Gva at) const { return {*this, at}; }
    Place field(u64 at, u64 distance) const { return {*this, Gva{at + distance}}; }
    u64 field_base() const { return 0; }
    u64 current_task() const { return fields().current_task; }
    u64 parent_tgid() const { return fields().task_tgid; }
    u64 cred_uid() const { return fields().cred_uid; }
    const sm_offsets& fields() const { return hw_.config().offsets; }

    /* False: somewhere in it cannot be read; what comes before that may have been copied. */
    SM_COLD bool copy(Gva at, void* out, u32 size) const {
        auto* to = static_cast<u8*>(out);
        while (size != 0) {
            const u64 left = SM_PAGE_SIZE - (raw(at) & (SM_PAGE_SIZE - 1));
            const u32 n = left < size ? static_cast<u32>(left) : size;
            Gva from = at;
            if (!is_mapped(at, n)) {
                Gpa gpa;
                if (!translate(at, &gpa))
                    return false;
                from = through_direct_map(gpa);
                if (!is_in_windows(from, n))
                    return false;
            }
            load_bytes(from, to, n);
            at = at + n;
            to += n;
            size -= n;
        }
        return true;
    }

    /* Looks the address up in the guest's page tables (4 or 5 levels, large pages). */
    SM_COLD bool translate(Gva at, Gpa* out) const {
        constexpr u64 present = 1, large = 1u << 7;
        constexpr u64 address_bits = 0x000ffffffffff000;
        const int levels = hw_.config().la57 ? 5 : 4;
        const int unused = 64 - (12 + 9 * levels);
        if (static_cast<s64>(raw(at) << unused) >> unused != static_cast<s64>(raw(at)))
            return false;
        u64 table = hw_.cr3() & address_bits;
        for (int shift = 12 + 9 * (levels - 1);; shift -= 9) {
            const Gva entry_at =
                through_direct_map(Gpa{table + ((raw(at) >> shift) & 0x1ff) * sizeof(u64)});
            if (!is_in_windows(entry_at, sizeof(u64)))
                return false;
            const u64 entry = hw_.template load<u64>(entry_at);
            if (!(entry & present))
                return false;
            const bool can_be_large = shift == 21 || shift == 30;
            if (shift == 12 || (can_be_large && (entry & large))) {
                const u64 offset_bits = (u64{1} << shift) - 1;
                *out = Gpa{(entry & address_bits & ~offset_bits) | (raw(at) & offset_bits)};
                return true;
            }
            table = entry & address_bits;
        }
    }

  private:
    SM_COLD bool is_in_windows(Gva at, u32 size) const {
        const sm_config& config = hw_.config();
        for (u32 i = 0; i < config.nr_windows && i < SM_MAX_WINDOWS; i++)
            if (is_in_window(config.windows[i], at, size))
                return true;
        return false;
    }

    bool is_mapped(Gva at, u32 size) const {
        return is_in_windows(at, size) || (is_stack_mapped_ && is_in_stack_block(stack_, at, size));
    }

    Gva through_direct_map(Gpa gpa) const { return Gva{hw_.config().direct_map + raw(gpa)}; }

    /* A field in one load, as the guest stored it; what is cut by a page's end in bytes. */
    void load_bytes(Gva from, u8* to, u32 size) const {
        if (size == 8) {
            const u64 value = hw_.template load<u64>(from);
            __builtin_memcpy(to, &value, 8);
        } else if (size == 4) {
            const u32 value = hw_.template load<u32>(from);
            __builtin_memcpy(to, &value, 4);
        } else {
            for (u32 i = 0; i < size; i++)
                to[i] = hw_.template load<u8>(from + i);
        }
    }

    const Hw& hw_;
    const Gva stack_;
    bool is_stack_mapped_ = false;
};

} // namespace shadowmon::payload

#endif
