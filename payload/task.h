/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What an event says of a task, read from its task_struct. */
#ifndef SHADOWMONITOR_PAYLOAD_TASK_H
#define SHADOWMONITOR_PAYLOAD_TASK_H

#include "abi/config.h"
#include "payload/guest_memory.h"

namespace shadowmon::payload {

/* The task that the guest's kernel calls current; false if the pointer to it cannot be read. */
template <class Hw, class Memory> bool read_current(const Hw& hw, const Memory& memory, Gva* task) {
    const auto percpu = memory.field(hw.gs_base(), memory.current_task());
    u64 value;
    if (!percpu.ok() || !percpu.load(memory.field_base(), &value))
        return false;
    *task = Gva{value};
    return true;
}

template <class Place> bool load_comm(const Place& task, u64 offset, char* to) {
    u64 word;
    static_assert(SM_COMM_SIZE == 2 * sizeof(word));
    if (!task.load(offset, &word))
        return false;
    __builtin_memcpy(to, &word, sizeof(word));
    if (!task.load(offset + sizeof(word), &word))
        return false;
    __builtin_memcpy(to + sizeof(word), &word, sizeof(word));
    return true;
}

/* tid and pid */
template <class Memory, class Place>
bool load_ids(const Memory& memory, const Place& task, sm_event_header* event) {
    if constexpr (!Memory::is_complete) {
        static_assert(offsetof(sm_event_header, pid) == offsetof(sm_event_header, tid) + 4);
        u64 both;
        task.load(memory.fields().task_pid, &both);
        __builtin_memcpy(reinterpret_cast<u8*>(event) + offsetof(sm_event_header, tid), &both,
                         sizeof(both));
        return true;
    }
    return task.load(memory.fields().task_pid, &event->tid) &&
           task.load(memory.fields().task_tgid, &event->pid);
}

template <class Memory> bool load_field(const Memory& memory, u64 object, u64 distance, u32* to) {
    const auto place = memory.field(object, distance);
    return place.ok() && place.load(memory.field_base(), to);
}

/* Fills tid to comm, from a task that is ok(); on false some of it may be filled. */
template <class Memory, class Place>
bool fill_task(const Memory& memory, const Place& task, sm_event_header* event) {
    const auto& fields = memory.fields();
    u64 parent, cred;
    /* Those behind pointers first, while field_base() is still at hand. */
    return task.load(fields.task_real_parent, &parent) &&
           load_field(memory, parent, memory.parent_tgid(), &event->ppid) &&
           task.load(fields.task_cred, &cred) &&
           load_field(memory, cred, memory.cred_uid(), &event->uid) &&
           load_ids(memory, task, event) && load_comm(task, fields.task_comm, event->comm);
}

} // namespace shadowmon::payload

#endif
