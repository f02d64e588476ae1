/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The producer of one ring (see abi/events.h for what both sides promise). Belongs to whoever
 * holds the slot; made anew for every event, what it remembers is in the slot's page.
 */
#ifndef SHADOWMONITOR_PAYLOAD_RING_WRITER_H
#define SHADOWMONITOR_PAYLOAD_RING_WRITER_H

#include "abi/config.h"
#include "payload/address.h"

namespace shadowmon::payload {

/* More than any event that try_reserve() is asked for. */
inline constexpr u32 largest_record = sizeof(sm_event_hook);

/* The payload's own part of a slot page; all zero is a good start. */
struct SlotState {
    /*
     * A record that starts before this fits, however large, without wrapping and without asking
     * for tail again. The head alone is compared with it.
     */
    u64 roomy;
    u64 base;                          /* up to there a record lies at this + its position */
    u64 lost_pending;                  /* events lost since the last SM_EVENT_LOST */
    u64 lost_reported[SM_EVENT_TYPES]; /* value of lost[] in the last SM_EVENT_LOST */
};
static_assert(sizeof(SlotState) <= sizeof(sm_slot::pad));

inline SlotState& state_of(sm_slot& slot) { return reinterpret_cast<SlotState&>(slot.pad); }

/* What all events of one entry into the gate have in common. */
class Stamp {
  public:
    Stamp(u64 tsc, u32 cpu) : tsc_(tsc), cpu_(cpu) {}
    u64 tsc() const { return tsc_; }
    u32 cpu() const { return cpu_; }

  private:
    const u64 tsc_;
    const u32 cpu_;
};

struct EventLost {
    sm_event_header h;
    sm_body_lost b;
};
static_assert(sizeof(EventLost) % 8 == 0);

template <class Hw> class RingWriter {
  public:
    RingWriter(const Hw& hw, sm_slot& slot)
        : hw_(hw), ring_(hw.ring_of(slot)), state_(state_of(slot)) {}

    /*
     * Room for an event of at most largest_record, or nullptr: the ring may have to wrap, is full,
     * or has losses to tell of, and reserve() has to see to that. The record's content is whatever
     * was there; the consumer sees it after commit().
     */
    sm_event_header* try_reserve(sm_event_type type, u32 size, const Stamp& stamp) {
        const u64 head = ring_.head;
        if (head >= state_.roomy) [[unlikely]]
            return nullptr;
        return begin(head, type, size, stamp);
    }

    /* The same, with all that takes; nullptr: counted as lost. */
    sm_event_header* reserve(sm_event_type type, u32 size, const Stamp& stamp) {
        sm_event_header* event = try_reserve(type, size, stamp);
        if (event || !make_room(type, size, stamp))
            return event;
        return begin(ring_.head, type, size, stamp);
    }

    void commit(sm_event_type type, u32 size, const Stamp& stamp) {
        ring_.seq++;
        ring_.recorded[type]++;
        /* Release, as every store of x86 is: who sees the sum sees the record. Nobody else adds. */
        asm volatile("addq %1, %0" : "+m"(ring_.head) : "er"(u64{size}) : "cc", "memory");
        /* After head: who has seen this time finds the event. */
        __atomic_store_n(&ring_.last_tsc, stamp.tsc(), __ATOMIC_RELEASE);
    }

    sm_ring& ring() const { return ring_; }

  private:
    /* The record that starts at head, of which base holds. */
    sm_event_header* begin(u64 head, sm_event_type type, u32 size, const Stamp& stamp) {
        auto* event = reinterpret_cast<sm_event_header*>(head + state_.base);
        event->type = type;
        event->flags = 0;
        event->size = size;
        event->cpu = stamp.cpu();
        event->tsc = stamp.tsc();
        event->seq = ring_.seq;
        return event;
    }

    sm_event_header* record_at(u64 position) const {
        return reinterpret_cast<sm_event_header*>(hw_.ring_data(ring_) + (position & mask()));
    }

    u64 mask() const { return hw_.config().derived.ring_mask; }

    /* Where a record of this size goes if everything before position is taken. */
    u64 place(u64 position, u32 size) const {
        const u64 to_end = mask() + 1 - (position & mask());
        return size <= to_end ? position : position + to_end;
    }

    /* Wraps, tells of losses, waits or gives the event up. What is free is then at least size. */
    SM_COLD bool make_room(sm_event_type type, u32 size, const Stamp& stamp) {
        const u64 ring_size = mask() + 1;
        u64 tail;
        for (;;) {
            tail = __atomic_load_n(&ring_.tail, __ATOMIC_ACQUIRE);
            u64 end = ring_.head;
            if (state_.lost_pending)
                end = place(end, sizeof(EventLost)) + sizeof(EventLost);
            end = place(end, size) + size;
            if (end - tail <= ring_size)
                break;
            if (hw_.config().full_mode == SM_FULL_BLOCK && hw_.call_host(SM_CALL_RING_FULL) == 0)
                continue;
            ring_.lost[type]++;
            ring_.seq++;
            state_.lost_pending++;
            state_.roomy = 0; /* come here again, to tell of it */
            return false;
        }
        if (state_.lost_pending)
            write_lost(stamp);
        pad_for(size);
        state_.base = reinterpret_cast<u64>(record_at(ring_.head)) - ring_.head;
        const u64 lap_end = (ring_.head | mask()) + 1;
        const u64 limit = tail + ring_size < lap_end ? tail + ring_size : lap_end;
        state_.roomy = limit - largest_record + 1;
        return true;
    }

    /* The record has no number of its own: its seq is that of the event that comes next. */
    void write_lost(const Stamp& stamp) {
        pad_for(sizeof(EventLost));
        auto* event = reinterpret_cast<EventLost*>(record_at(ring_.head));
        *event = {};
        event->h.type = SM_EVENT_LOST;
        event->h.flags = SM_EVENT_NO_TASK;
        event->h.size = sizeof(EventLost);
        event->h.cpu = stamp.cpu();
        event->h.seq = ring_.seq;
        event->h.tsc = stamp.tsc();
        for (int i = 0; i < SM_EVENT_TYPES; i++) {
            event->b.lost[i] = ring_.lost[i] - state_.lost_reported[i];
            state_.lost_reported[i] = ring_.lost[i];
        }
        state_.lost_pending = 0;
        ring_.recorded[SM_EVENT_LOST]++;
        __atomic_store_n(&ring_.head, ring_.head + sizeof(EventLost), __ATOMIC_RELEASE);
    }

    /* Goes to the start of the data if a record of this size would wrap. */
    void pad_for(u32 size) {
        const u64 at = place(ring_.head, size);
        if (at == ring_.head)
            return;
        /* At least 8 bytes are left, as all sizes are multiples of 8: write no more than that. */
        sm_event_header* pad = record_at(ring_.head);
        pad->type = SM_EVENT_PAD;
        pad->flags = 0;
        pad->size = static_cast<u32>(at - ring_.head);
        __atomic_store_n(&ring_.head, at, __ATOMIC_RELEASE);
    }

    const Hw& hw_;
    sm_ring& ring_;
    SlotState& state_;
};

} // namespace shadowmon::payload

#endif
