/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What happens in the shadow view between the two halves of the gate: find the hook, record
 * its event, say where the guest continues.
 *
 * Hw is the machine: config(), hooks(), hook_at(offset), offset_of(hook), limit_of(hook),
 * saved_regs(slot), ring_of(slot), ring_data(ring), counters_of(ring), irq_count(aux),
 * from_start(), is_below_limit(), cr3(), gs_base(), tsc_aux(), call_host(number), and of guest
 * memory load<T>(), load_u32() and load_int(), each one load, which may fault: only for addresses
 * found readable. The payload has the real one (machine.h), unit tests have one that
 * checks every load; bench/host_bench.cpp has a third.
 */
#ifndef SHADOWMONITOR_PAYLOAD_HANDLER_H
#define SHADOWMONITOR_PAYLOAD_HANDLER_H

#include "abi/config.h"
#include "payload/asm_offsets.h"
#include "payload/guest_memory.h"
#include "payload/hook_table.h"
#include "payload/pt_regs.h"
#include "payload/rate_limit.h"
#include "payload/ring_writer.h"
#include "payload/saved_regs.h"
#include "payload/task.h"

namespace shadowmon::payload {

/* hook of an event that belongs to none. */
inline constexpr u32 no_hook_id = ~0u;

struct EventUnknown {
    sm_event_header h;
    sm_body_unknown b;
};
static_assert(sizeof(EventUnknown) % 8 == 0 && sizeof(EventUnknown) <= largest_record);

/* What a gate leaves on the guest's stack; known to the compiler where every instruction counts. */
struct IntEntry {
    static constexpr u32 rip = SM_ASM_FRAME_RIP, rflags = SM_ASM_FRAME_RFLAGS,
                         size = SM_ASM_FRAME_SIZE;
    static constexpr u16 hook_flag = 0;
};
struct CallEntry {
    static constexpr u32 rip = SM_ASM_CALL_RIP, rflags = SM_ASM_CALL_RFLAGS,
                         size = SM_ASM_CALL_SIZE;
    static constexpr u16 hook_flag = SM_HOOK_CALL;
};
struct AnyEntry {
    u32 rip, rflags, size;
    u16 hook_flag;

    template <class Entry> static constexpr AnyEntry of() {
        return {Entry::rip, Entry::rflags, Entry::size, Entry::hook_flag};
    }
};

/*
 * Interrupts are few beside system calls: they are recorded by AnyMemory only, so that the way of
 * the others is not an instruction longer.
 */
template <class Event> inline constexpr bool is_irq = false;
template <> inline constexpr bool is_irq<sm_event_irq_enter> = true;
template <> inline constexpr bool is_irq<sm_event_irq_exit> = true;

enum class Outcome {
    done,       /* recorded, lost, or told of as unknown */
    limited,    /* of a hook with a limit: to be recorded only if it is admitted */
    not_enough, /* of a memory that is not complete; nothing has been recorded */
};

/*
 * One entry by one of the gates. Made twice at most: with DirectMemory, which does what nearly
 * every event needs, all in one function without a call; and, if that is not enough, anew with
 * AnyMemory, which does everything.
 */
template <class Hw, template <class> class MemoryOf, class Entry> class Handler {
    using Memory = MemoryOf<Hw>;

  public:
    Handler(const Hw& hw, sm_slot& slot, const Stamp& stamp, const Entry& entry)
        : hw_(hw), slot_(slot), regs_(hw.saved_regs(slot)), memory_(hw, Gva{slot.guest_rsp}),
          ring_(hw, slot), stamp_(stamp), entry_(entry) {}

    /*
     * next: where an INT continues, or SM_ASM_RESUME_CHAIN; of no meaning for a CALL, which
     * continues at its address of return, whatever has become of that. hook: in, the one that has
     * passed its limit for this entry; out, the one that was found.
     */
    Outcome run(u64* next, const sm_hook** hook) {
        const sm_hook* admitted = *hook;
        *next = SM_ASM_RESUME_CHAIN;
        const auto frame = memory_.frame(entry_.size);
        u64 rip, rflags = 0;
        if (!frame.ok() || !frame.load(entry_.rip, &rip) ||
            (Memory::is_complete && is_int() && !frame.load(entry_.rflags, &rflags))) [[unlikely]]
            return unknown(0, SM_EVENT_NO_BODY);
        const sm_hook* found = find_hook(hw_, rip);
        if (!found) [[unlikely]]
            return unknown(rip, 0);
        *hook = found;
        /* The usual hooks by one comparison each, which says that there is nothing else to them. */
        const u32 own = u32{entry_.hook_flag} << 16;
        u32 kind = 0;
        if (Memory::is_complete) {
            if (rip <= SM_HOOK_REMOVED || (found->flags & SM_HOOK_CALL) != entry_.hook_flag)
                return unknown(rip, 0);
            if (found->flags & SM_HOOK_HOLD) {
                hw_.call_host(SM_CALL_HOLD);
                *next = resume(*found, rflags);
                return Outcome::done;
            }
            if ((found->flags & SM_HOOK_LIMITED) && found != admitted) {
                *next = resume(*found, rflags);
                return Outcome::limited;
            }
            kind = found->type | own;
        }
        bool done = true; /* of what is of no known type */
        /* The longest and most frequent of them first. */
        const auto is = [&](u32 type) {
            return Memory::is_complete ? kind == (type | own) : is_of_kind(*found, type | own);
        };
        if (is(SM_EVENT_SYSCALL_ENTER)) {
            done = record_as<sm_event_syscall_enter, SM_EVENT_SYSCALL_ENTER>(*found);
        } else if (is(SM_EVENT_HOOK)) {
            done = record_as<sm_event_hook, SM_EVENT_HOOK>(*found);
        } else if (is(SM_EVENT_SYSCALL_EXIT)) {
            done = record_as<sm_event_syscall_exit, SM_EVENT_SYSCALL_EXIT>(*found);
        } else if (is(SM_EVENT_SWITCH)) {
            done = record_as<sm_event_switch, SM_EVENT_SWITCH>(*found);
        } else if (Memory::is_complete && is(SM_EVENT_IRQ_ENTER)) {
            done = record_as<sm_event_irq_enter, SM_EVENT_IRQ_ENTER>(*found);
        } else if (Memory::is_complete && is(SM_EVENT_IRQ_EXIT)) {
            done = record_as<sm_event_irq_exit, SM_EVENT_IRQ_EXIT>(*found);
        } else if (!Memory::is_complete) {
            constexpr u32 either = u32{SM_HOOK_CALL | SM_HOOK_LIMITED} << 16;
            if ((kind_of(*found) & either) != (own | u32{SM_HOOK_LIMITED} << 16) ||
                rip <= SM_HOOK_REMOVED)
                return Outcome::not_enough;
            *next = resume(*found, rflags);
            return Outcome::limited;
        }
        if (!done) [[unlikely]]
            return Outcome::not_enough;
        *next = resume(*found, rflags);
        return Outcome::done;
    }

    void count(sm_counter what, u32 hook_id) {
        hw_.counters_of(ring_.ring())[u64{what} * hw_.config().hook_capacity + hook_id]++;
    }

  private:
    bool is_int() const { return entry_.hook_flag == 0; }

    /* Type and flags in one word. */
    static u32 kind_of(const sm_hook& hook) {
        u32 kind;
        __builtin_memcpy(&kind, reinterpret_cast<const u8*>(&hook) + offsetof(sm_hook, type),
                         sizeof(kind));
        return kind;
    }

    /* rflags: of a memory that is complete; the other reads them only here, out of the way. */
    u64 resume(const sm_hook& hook, u64 rflags) const {
        if (!is_int())
            return SM_ASM_RESUME_CHAIN;
        if (!Memory::is_complete)
            memory_.same_frame().load(entry_.rflags, &rflags);
        return rflags & SM_ASM_RFLAGS_IF ? hook.resume_if1 : hook.resume_if0;
    }

    /* False only of a memory that is not complete. A lost event has been dealt with, too. */
    template <class Event, sm_event_type type> bool record_as(const sm_hook& hook) {
        u64 nth = 0;
        if constexpr (Memory::is_complete && is_irq<Event>)
            nth = hw_.irq_count(slot_.aux)++; /* also of an event that is lost */
        static_assert(sizeof(Event) <= largest_record);
        auto* event = reserve<Event>(type);
        if (!event) [[unlikely]] {
            if (Memory::is_complete)
                count(SM_COUNTER_LOST, hook.id);
            return Memory::is_complete;
        }
        event->h.hook = hook.id;
        event->h.cr3 = hw_.cr3();
        if (!fill_process(event)) [[unlikely]] {
            if (!Memory::is_complete)
                return false;
            no_task(&event->h);
        }
        if (!fill_body(event)) [[unlikely]] {
            if (!Memory::is_complete)
                return false;
            event->h.flags |= SM_EVENT_NO_BODY;
            event->b = {};
        }
        if (Memory::is_complete && (hook.flags & SM_HOOK_COMPAT))
            mark_compat(hook, event);
        if constexpr (Memory::is_complete && is_irq<Event>) {
            fill_irq(hook, event);
            event->b.nth = nth;
        }
        /* From the record, so that no register has to keep the hook until here. */
        count(SM_COUNTER_RECORDED, __atomic_load_n(&event->h.hook, __ATOMIC_RELAXED));
        ring_.commit(type, sizeof(Event), stamp_);
        return true;
    }

    template <class Event> Event* reserve(sm_event_type type) {
        return reinterpret_cast<Event*>(Memory::is_complete
                                            ? ring_.reserve(type, sizeof(Event), stamp_)
                                            : ring_.try_reserve(type, sizeof(Event), stamp_));
    }

    template <class Event> bool fill_process(Event* event) {
        Gva task{};
        const bool ok = read_current(hw_, memory_, &task);
        event->h.task = raw(task);
        if (!ok)
            return false;
        const auto place = memory_.object(task);
        return place.ok() && fill_task(memory_, place, &event->h);
    }

    /*
     * __switch_to(prev, next): the event is that of prev. Its state belongs to the body, but
     * DirectMemory reads it here, where prev has just been looked at.
     */
    bool fill_process(sm_event_switch* event) {
        event->h.task = regs_.rdi;
        const auto prev = memory_.object(Gva{regs_.rdi});
        return prev.ok() && fill_task(memory_, prev, &event->h) &&
               (Memory::is_complete || fill_state(prev, event));
    }

    template <class Place> bool fill_state(const Place& prev, sm_event_switch* event) {
        return prev.load_u32(memory_.fields().task_state, &event->b.prev_state);
    }

    static void no_task(sm_event_header* event) {
        event->flags |= SM_EVENT_NO_TASK;
        event->tid = event->pid = event->ppid = event->uid = 0;
        for (char& c : event->comm)
            c = 0;
    }

    /*
     * pt_regs is the argument of the entry and exit functions, and on the task's own stack. The
     * kernel takes the number in it as an int, and tells it so in its own trace.
     */
    auto user_registers() const { return memory_.on_stack(Gva{regs_.rdi}, sizeof(PtRegs)); }

    bool fill_body(sm_event_syscall_enter* event) {
        const auto user = user_registers();
        if (!user.ok() || !user.load_int(offsetof(PtRegs, orig_ax), &event->b.nr) ||
            !user.load(offsetof(PtRegs, di), &event->b.args[0]) ||
            !user.load(offsetof(PtRegs, si), &event->b.args[1]) ||
            !user.load(offsetof(PtRegs, dx), &event->b.args[2]) ||
            !user.load(offsetof(PtRegs, r10), &event->b.args[3]) ||
            !user.load(offsetof(PtRegs, r8), &event->b.args[4]) ||
            !user.load(offsetof(PtRegs, r9), &event->b.args[5]))
            return false;
        return true;
    }

    bool fill_body(sm_event_syscall_exit* event) {
        const auto user = user_registers();
        if (!user.ok() || !user.load_int(offsetof(PtRegs, orig_ax), &event->b.nr) ||
            !user.load(offsetof(PtRegs, ax), &event->b.ret))
            return false;
        return true;
    }

    bool fill_body(sm_event_switch* event) {
        const auto& fields = memory_.fields();
        const u64 next_task = regs_.rsi;
        event->b.next_task = next_task;
        if (Memory::is_complete && !fill_state(memory_.object(Gva{regs_.rdi}), event))
            return false;
        const auto next = memory_.object(Gva{next_task});
        return next.ok() && next.load(fields.task_pid, &event->b.next_tid) &&
               next.load(fields.task_tgid, &event->b.next_pid) &&
               load_comm(next, fields.task_comm, event->b.next_comm);
    }

    bool fill_body(sm_event_hook* event) {
        const auto frame = memory_.same_frame();
        event->b.args[0] = regs_.rdi;
        event->b.args[1] = regs_.rsi;
        event->b.args[4] = regs_.r8;
        event->b.args[5] = regs_.r9;
        if (!frame.load(SM_ASM_FRAME_RDX, &event->b.args[2]) ||
            !frame.load(SM_ASM_FRAME_RCX, &event->b.args[3]) ||
            !frame.load(SM_ASM_FRAME_RAX, &event->b.ax) ||
            !frame.load(entry_.rflags, &event->b.flags))
            return false;
        /* In 64-bit mode INT aligns the stack before it pushes: where it was is there. */
        if (is_int())
            return frame.load(SM_ASM_FRAME_RSP, &event->b.sp);
        event->b.sp = raw(memory_.stack()) + SM_ASM_CALL_SIZE;
        return true;
    }

    /* What there is to it depends on the hook: fill_irq(). */
    bool fill_body(sm_event_irq_enter*) { return true; }
    bool fill_body(sm_event_irq_exit*) { return true; }

    SM_COLD void fill_irq(const sm_hook& hook, sm_event_irq_exit* event) {
        const bool is_line = hook.flags & SM_HOOK_IRQ_LINE;
        event->b.vector = is_line ? SM_IRQ_UNKNOWN : hook.flags >> SM_HOOK_VECTOR_SHIFT;
        event->b.pad = 0;
    }

    SM_COLD void fill_irq(const sm_hook& hook, sm_event_irq_enter* event) {
        event->b.vector = hook.flags >> SM_HOOK_VECTOR_SHIFT;
        event->b.irq = SM_IRQ_UNKNOWN;
        event->b.handler = 0;
        if (hook.flags & SM_HOOK_IRQ_LINE)
            fill_line(&event->b);
    }

    /*
     * vector_irq[vector]->action->handler of this CPU, as it is at this moment: the host, which
     * looks later, might find what another device has put there. No pointer is trusted; what
     * cannot be read is unknown. A kernel address that is an error number is none.
     */
    SM_COLD void fill_line(sm_body_irq_enter* body) {
        constexpr u64 vectors = 256, errors = ~u64{4095};
        const sm_irq_offsets& offsets = hw_.config().irq;
        const u64 vector = regs_.rsi;
        body->vector = vector < vectors ? static_cast<u32>(vector) : SM_IRQ_UNKNOWN;
        u64 desc, action, handler;
        u32 irq;
        if (vector >= vectors || offsets.vector_irq == 0 ||
            !load(hw_.gs_base() + offsets.vector_irq + vector * sizeof(u64), &desc) || desc == 0 ||
            desc >= errors || !load(desc + offsets.desc_irq, &irq))
            return;
        body->irq = irq;
        if (load(desc + offsets.desc_action, &action) && action != 0 &&
            load(action + offsets.action_handler, &handler))
            body->handler = handler;
    }

    template <class T> bool load(u64 at, T* out) const {
        const auto place = memory_.object(Gva{at});
        return place.ok() && place.load(0, out);
    }

    template <class Event> void mark_compat(const sm_hook&, Event* event) {
        event->h.flags |= SM_EVENT_COMPAT;
    }

    /*
     * A 32-bit call has its arguments in other registers, of which the upper halves are no part.
     * In an entry by SYSENTER or SYSCALL bp is the user's stack pointer, where the kernel will
     * find the sixth argument later.
     */
    void mark_compat(const sm_hook& hook, sm_event_syscall_enter* event) {
        event->h.flags |= SM_EVENT_COMPAT;
        const auto user = user_registers();
        u64 args[6], nr;
        if ((event->h.flags & SM_EVENT_NO_BODY) || !user.load(offsetof(PtRegs, bx), &args[0]) ||
            !user.load(offsetof(PtRegs, cx), &args[1]) ||
            !user.load(offsetof(PtRegs, dx), &args[2]) ||
            !user.load(offsetof(PtRegs, si), &args[3]) ||
            !user.load(offsetof(PtRegs, di), &args[4]) ||
            !user.load(offsetof(PtRegs, bp), &args[5]) ||
            !user.load_int(offsetof(PtRegs, ax), &nr)) {
            event->h.flags |= SM_EVENT_NO_BODY;
            event->b = {};
            return;
        }
        for (int i = 0; i < 6; i++)
            event->b.args[i] = static_cast<u32>(args[i]);
        if (hook.flags & SM_HOOK_NR_IN_AX)
            event->b.nr = nr;
    }

    /* An entry from no hook of ours: told, and left to the guest. */
    Outcome unknown(u64 rip, u16 flags) {
        if (!Memory::is_complete)
            return Outcome::not_enough;
        slot_.unknown++;
        auto* event = reserve<EventUnknown>(SM_EVENT_UNKNOWN_HOOK);
        if (!event)
            return Outcome::done;
        event->h.hook = no_hook_id;
        event->h.cr3 = hw_.cr3();
        if (!fill_process(event))
            no_task(&event->h);
        event->h.flags |= flags;
        event->b.rip = rip;
        event->b.rsp = slot_.guest_rsp + entry_.rip;
        ring_.commit(SM_EVENT_UNKNOWN_HOOK, sizeof(*event), stamp_);
        return Outcome::done;
    }

    const Hw& hw_;
    sm_slot& slot_;
    const SavedRegs& regs_;
    Memory memory_;
    RingWriter<Hw> ring_;
    const Stamp stamp_;
    const Entry entry_;
};

/* hook: the one that has passed its limit for this entry, or nullptr. */
template <class Hw>
SM_COLD u64 handle_any_event(const Hw& hw, sm_slot& slot, const sm_hook* hook,
                             const AnyEntry& entry) {
    u64 next;
    slot.aux = hw.tsc_aux();
    Handler<Hw, AnyMemory, AnyEntry> handler(hw, slot, Stamp(slot.tsc, slot.aux), entry);
    while (handler.run(&next, &hook) == Outcome::limited) {
        /* The first try has not come so far, or the guest has changed its frame meanwhile. */
        if (!admit(hw.limit_of(*hook), slot.tsc)) {
            handler.count(SM_COUNTER_LIMITED, hook->id);
            break;
        }
    }
    return next;
}

/* A hook that has a limit: above it the guest goes on at once. */
template <class Entry, class Hw>
SM_COLD u64 handle_limited_event(const Hw& hw, sm_slot& slot, const sm_hook& hook, u64 next) {
    static constexpr AnyEntry entry = AnyEntry::of<Entry>();
    if (admit(hw.limit_of(hook), slot.tsc))
        return handle_any_event(hw, slot, &hook, entry);
    Handler<Hw, DirectMemory, Entry>(hw, slot, Stamp(0, 0), Entry())
        .count(SM_COUNTER_LIMITED, hook.id);
    return next;
}

/*
 * The slot is the caller's, who has written guest_rsp and tsc, and has tsc and TSC_AUX in
 * registers, which is all that most events need; the result is Handler::run()'s next.
 */
template <class Entry, class Hw> u64 handle_event(const Hw& hw, sm_slot& slot, u64 tsc, u32 aux) {
    static constexpr AnyEntry entry = AnyEntry::of<Entry>();
    slot.claims++;
    u64 next;
    const sm_hook* hook = nullptr;
    const Outcome outcome =
        Handler<Hw, DirectMemory, Entry>(hw, slot, Stamp(tsc, aux), Entry()).run(&next, &hook);
    if (outcome == Outcome::done) [[likely]]
        return next;
    if (outcome == Outcome::limited)
        return handle_limited_event<Entry>(hw, slot, *hook, next);
    return handle_any_event(hw, slot, nullptr, entry);
}

} // namespace shadowmon::payload

#endif
