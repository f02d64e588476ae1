/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What happens in the shadow view between the two halves of the gate: find the hook, record
 * its event, say where the guest continues.
 *
 * Hw is the machine: config(), hooks(), limit_of(hook), ring_of(slot), ring_data(ring),
 * counters_of(ring), cr3(), gs_base(), load<T>(Gva) (one load, may fault: only for addresses found
 * readable) and call_host(number).
 * The payload has the real one (machine.h), unit tests have one that checks every load.
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
#include "payload/task.h"

namespace shadowmon::payload {

/* Registers that the gate saved on the trusted stack. */
struct SavedRegs {
    u64 rsi, rdi, r8, r9, r10, r11;
};
static_assert(offsetof(SavedRegs, rsi) == SM_ASM_SAVED_RSI);
static_assert(offsetof(SavedRegs, rdi) == SM_ASM_SAVED_RDI);
static_assert(sizeof(SavedRegs) == SM_ASM_SAVED_SIZE);

/* hook of an event that belongs to none. */
inline constexpr u32 no_hook_id = ~0u;

struct EventUnknown {
    sm_event_header h;
    sm_body_unknown b;
};
static_assert(sizeof(EventUnknown) % 8 == 0);

/* Handler::run() could not do it with the memory it was given; nothing has been recorded. */
inline constexpr u64 not_done = ~u64{0};

/*
 * One entry into the gate. Made twice at most: with DirectMemory, which does what nearly every
 * event needs, all in one function without a call; and, if that says not_done, anew with
 * AnyMemory, which does everything.
 */
template <class Hw, template <class> class MemoryOf> class Handler {
    using Memory = MemoryOf<Hw>;

  public:
    Handler(const Hw& hw, sm_slot& slot, const SavedRegs& regs, const Stamp& stamp)
        : hw_(hw), slot_(slot), regs_(regs), memory_(hw, Gva{slot.guest_rsp}), ring_(hw, slot),
          arg1_(regs.rdi), arg2_(regs.rsi), stamp_(stamp) {}

    /* Returns the address to continue at, SM_ASM_RESUME_CHAIN or not_done. */
    u64 run() {
        if (!memory_.is_usable()) [[unlikely]]
            return not_done;
        const auto frame = memory_.frame(SM_ASM_FRAME_RIP + frame_size);
        u64 rip, rflags;
        if (!frame.ok() || !frame.load(SM_ASM_FRAME_RIP, &rip) ||
            !frame.load(SM_ASM_FRAME_RFLAGS, &rflags)) [[unlikely]]
            return unknown(0, SM_EVENT_NO_BODY);
        const sm_hook* hook = find_hook(hw_, rip);
        if (!hook) [[unlikely]]
            return unknown(rip, 0);
        if (hook->flags & rare_flags) [[unlikely]] {
            if ((hook->flags & SM_HOOK_LIMITED) &&
                !is_admitted(hw_, slot_, *hook, stamp_.tsc, Memory::is_complete)) {
                count(SM_COUNTER_LIMITED, *hook);
                return resume(*hook, rflags);
            }
            /* Only the second try knows of 32-bit calls. */
            if (!Memory::is_complete && (hook->flags & SM_HOOK_COMPAT))
                return not_done;
        }
        if (!record(*hook)) [[unlikely]]
            return not_done;
        return resume(*hook, rflags);
    }

  private:
    /* What most hooks do not have: one test for all of them. */
    static constexpr u16 rare_flags = SM_HOOK_LIMITED | SM_HOOK_COMPAT;

    static u64 resume(const sm_hook& hook, u64 rflags) {
        return rflags & SM_ASM_RFLAGS_IF ? hook.resume_if1 : hook.resume_if0;
    }

    void count(sm_counter what, const sm_hook& hook) {
        hw_.counters_of(hw_.ring_of(slot_))[u64{what} * hw_.config().hook_capacity + hook.id]++;
    }

    /* One entry takes one from the limit, also if it needs both tries. */
    SM_COLD static bool is_admitted(const Hw& hw, sm_slot& slot, const sm_hook& hook, u64 tsc,
                                    bool is_second_try) {
        SlotState& state = state_of(slot);
        if (is_second_try && state.admitted_claim == slot.claims && state.admitted_hook == &hook)
            return true;
        if (!admit(hw.limit_of(hook), tsc))
            return false;
        state.admitted_claim = slot.claims;
        state.admitted_hook = &hook;
        return true;
    }

    /* rip, cs, rflags, rsp, ss */
    static constexpr u32 frame_size = 5 * sizeof(u64);

    bool record(const sm_hook& hook) {
        if (hook.type == SM_EVENT_SYSCALL_ENTER)
            return record_as<sm_event_syscall_enter>(hook);
        if (hook.type == SM_EVENT_SYSCALL_EXIT)
            return record_as<sm_event_syscall_exit>(hook);
        if (hook.type == SM_EVENT_SWITCH)
            return record_as<sm_event_switch>(hook);
        if (hook.type == SM_EVENT_HOOK)
            return record_as<sm_event_hook>(hook);
        return true;
    }

    /* False only of a memory that is not complete. A lost event has been dealt with, too. */
    template <class Event> bool record_as(const sm_hook& hook) {
        const auto type = static_cast<sm_event_type>(hook.type);
        auto* event = reserve<Event>(type);
        if (!event) [[unlikely]] {
            if (Memory::is_complete)
                count(SM_COUNTER_LOST, hook);
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
        count(SM_COUNTER_RECORDED, hook);
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
        return ok && fill_task(hw_.config(), memory_, task, &event->h);
    }

    /* __switch_to(prev, next): the event is that of prev. */
    bool fill_process(sm_event_switch* event) {
        event->h.task = arg1_;
        return fill_task(hw_.config(), memory_, Gva{arg1_}, &event->h);
    }

    static void no_task(sm_event_header* event) {
        event->flags |= SM_EVENT_NO_TASK;
        event->tid = event->pid = event->ppid = event->uid = 0;
        for (char& c : event->comm)
            c = 0;
    }

    /* pt_regs is the argument of the entry and exit functions, and on the task's own stack. */
    auto user_registers() const { return memory_.on_stack(Gva{arg1_}, sizeof(PtRegs)); }

    /* The kernel takes the number as an int, and tells it so in its own trace. */
    static u64 syscall_number(u64 orig_ax) {
        return static_cast<u64>(s64{static_cast<s32>(orig_ax)});
    }

    bool fill_body(sm_event_syscall_enter* event) {
        const auto user = user_registers();
        u64 orig_ax;
        if (!user.ok() || !user.load(offsetof(PtRegs, orig_ax), &orig_ax) ||
            !user.load(offsetof(PtRegs, di), &event->b.args[0]) ||
            !user.load(offsetof(PtRegs, si), &event->b.args[1]) ||
            !user.load(offsetof(PtRegs, dx), &event->b.args[2]) ||
            !user.load(offsetof(PtRegs, r10), &event->b.args[3]) ||
            !user.load(offsetof(PtRegs, r8), &event->b.args[4]) ||
            !user.load(offsetof(PtRegs, r9), &event->b.args[5]))
            return false;
        event->b.nr = syscall_number(orig_ax);
        return true;
    }

    bool fill_body(sm_event_syscall_exit* event) {
        const auto user = user_registers();
        u64 orig_ax;
        if (!user.ok() || !user.load(offsetof(PtRegs, orig_ax), &orig_ax) ||
            !user.load(offsetof(PtRegs, ax), &event->b.ret))
            return false;
        event->b.nr = syscall_number(orig_ax);
        return true;
    }

    bool fill_body(sm_event_switch* event) {
        const sm_config& config = hw_.config();
        const sm_offsets& offsets = config.offsets;
        const auto prev = memory_.kernel_data(Gva{arg1_}, config.task_size);
        const auto next = memory_.kernel_data(Gva{arg2_}, config.task_size);
        u32 state;
        if (!prev.ok() || !next.ok() || !prev.load(offsets.task_state, &state) ||
            !next.load(offsets.task_pid, &event->b.next_tid) ||
            !next.load(offsets.task_tgid, &event->b.next_pid) ||
            !load_comm(next, offsets.task_comm, event->b.next_comm))
            return false;
        event->b.next_task = arg2_;
        event->b.prev_state = state;
        return true;
    }

    /* The frame was found readable before the hook was looked up. */
    bool fill_body(sm_event_hook* event) {
        const auto frame = memory_.frame(SM_ASM_FRAME_RIP + frame_size);
        event->b.args[0] = arg1_;
        event->b.args[1] = arg2_;
        event->b.args[4] = regs_.r8;
        event->b.args[5] = regs_.r9;
        /* In 64-bit mode INT aligns the stack before it pushes: where it was is in the frame. */
        return frame.ok() && frame.load(SM_ASM_FRAME_RDX, &event->b.args[2]) &&
               frame.load(SM_ASM_FRAME_RCX, &event->b.args[3]) &&
               frame.load(SM_ASM_FRAME_RAX, &event->b.ax) &&
               frame.load(SM_ASM_FRAME_RSP, &event->b.sp) &&
               frame.load(SM_ASM_FRAME_RFLAGS, &event->b.flags);
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
        u64 args[6], ax;
        if ((event->h.flags & SM_EVENT_NO_BODY) || !user.load(offsetof(PtRegs, bx), &args[0]) ||
            !user.load(offsetof(PtRegs, cx), &args[1]) ||
            !user.load(offsetof(PtRegs, dx), &args[2]) ||
            !user.load(offsetof(PtRegs, si), &args[3]) ||
            !user.load(offsetof(PtRegs, di), &args[4]) ||
            !user.load(offsetof(PtRegs, bp), &args[5]) || !user.load(offsetof(PtRegs, ax), &ax)) {
            event->h.flags |= SM_EVENT_NO_BODY;
            event->b = {};
            return;
        }
        for (int i = 0; i < 6; i++)
            event->b.args[i] = static_cast<u32>(args[i]);
        if (hook.flags & SM_HOOK_NR_IN_AX)
            event->b.nr = syscall_number(ax);
    }

    /* An INT 20 that is no hook of ours: told, and left to the guest. */
    u64 unknown(u64 rip, u16 flags) {
        if (!Memory::is_complete)
            return not_done;
        slot_.unknown++;
        auto* event = reserve<EventUnknown>(SM_EVENT_UNKNOWN_HOOK);
        if (!event)
            return SM_ASM_RESUME_CHAIN;
        event->h.hook = no_hook_id;
        event->h.cr3 = hw_.cr3();
        if (!fill_process(event))
            no_task(&event->h);
        event->h.flags |= flags;
        event->b.rip = rip;
        event->b.rsp = slot_.guest_rsp + SM_ASM_FRAME_RIP;
        ring_.commit(SM_EVENT_UNKNOWN_HOOK, sizeof(*event), stamp_);
        return SM_ASM_RESUME_CHAIN;
    }

    const Hw& hw_;
    sm_slot& slot_;
    const SavedRegs& regs_;
    Memory memory_;
    RingWriter<Hw> ring_;
    const u64 arg1_, arg2_; /* of the hooked function */
    const Stamp stamp_;
};

template <class Hw>
SM_COLD u64 handle_any_event(const Hw& hw, sm_slot& slot, u64 tsc, const SavedRegs& regs, u32 aux) {
    return Handler<Hw, AnyMemory>(hw, slot, regs, {tsc, aux & 0xfff}).run();
}

/* The slot is the caller's; the result is as Handler::run() gives it, never not_done. */
template <class Hw>
u64 handle_event(const Hw& hw, sm_slot& slot, u64 tsc, const SavedRegs& regs, u32 aux) {
    slot.tsc = tsc;
    slot.cpu = aux;
    slot.claims++;
    const u64 next = Handler<Hw, DirectMemory>(hw, slot, regs, {tsc, aux & 0xfff}).run();
    if (next != not_done) [[likely]]
        return next;
    return handle_any_event(hw, slot, tsc, regs, aux);
}

} // namespace shadowmon::payload

#endif
