/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What an event says of a task, read from its task_struct. */
#ifndef SHADOWMONITOR_PAYLOAD_TASK_H
#define SHADOWMONITOR_PAYLOAD_TASK_H

#include "abi/config.h"
#include "payload/guest_memory.h"

namespace shadowmon::payload {

/* The task that the guest's kernel calls current; false if the pointer to it cannot be read. */
template <class Hw, class Memory> bool read_current(const Hw& hw, const Memory& memory, Gva* task) {
    const auto percpu =
        memory.kernel_data(Gva{hw.gs_base() + hw.config().offsets.current_task}, sizeof(u64));
    u64 value;
    if (!percpu.ok() || !percpu.load(0, &value))
        return false;
    *task = Gva{value};
    return true;
}

template <class Place> bool load_comm(const Place& task, u32 offset, char* to) {
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

template <class Memory> bool load_u32(const Memory& memory, Gva at, u32* to) {
    const auto place = memory.kernel_data(at, sizeof(u32));
    return place.ok() && place.load(0, to);
}

/* Fills tid to comm; on false some of it may be filled. */
template <class Memory>
bool fill_task(const sm_config& config, const Memory& memory, Gva at, sm_event_header* event) {
    const sm_offsets& offsets = config.offsets;
    const auto task = memory.kernel_data(at, config.task_size);
    u64 parent, cred;
    return task.ok() && task.load(offsets.task_pid, &event->tid) &&
           task.load(offsets.task_tgid, &event->pid) &&
           load_comm(task, offsets.task_comm, event->comm) &&
           task.load(offsets.task_real_parent, &parent) &&
           load_u32(memory, Gva{parent} + offsets.task_tgid, &event->ppid) &&
           task.load(offsets.task_cred, &cred) &&
           load_u32(memory, Gva{cred} + offsets.cred_uid, &event->uid);
}

} // namespace shadowmon::payload

#endif
