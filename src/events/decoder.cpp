// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/decoder.h"

#include "src/events/syscall_names.h"

#include <algorithm>
#include <iterator>

namespace shadowmon {
namespace {

constexpr std::string_view unnamed = "?";

// A guest cannot have more tasks than this (PID_MAX_LIMIT); more entries than that can
// only come of lies about task addresses.
constexpr size_t kMaxTasks = 4 * 1024 * 1024;

Comm to_comm(const char (&bytes)[SM_COMM_SIZE]) {
    Comm comm;
    std::copy(std::begin(bytes), std::end(bytes), comm.bytes.begin());
    return comm;
}

Syscall named(uint64_t nr, bool compat) {
    const auto number = static_cast<int32_t>(static_cast<uint32_t>(nr));
    return {number, compat, syscall_name(number, compat)};
}

} // namespace

Syscall Decoder::enter(const Record& record, uint64_t nr) {
    const bool compat = record.header.flags & SM_EVENT_COMPAT;
    if (compat) {
        if (in_compat_.size() >= kMaxTasks)
            in_compat_.clear();
        in_compat_.insert(record.header.task);
    } else if (!in_compat_.empty()) {
        in_compat_.erase(record.header.task);
    }
    return named(nr, compat);
}

Syscall Decoder::exit(const Record& record, uint64_t nr) {
    bool compat = record.header.flags & SM_EVENT_COMPAT;
    if (!in_compat_.empty())
        compat |= in_compat_.erase(record.header.task) != 0;
    return named(nr, compat);
}

void Decoder::set_hook_name(uint32_t id, std::string name) {
    if (name.size() > kMaxHookName)
        name.resize(kMaxHookName);
    if (id >= hook_names_.size())
        hook_names_.resize(id + size_t{1}, unnamed);
    hook_names_[id] = *names_.insert(std::move(name)).first;
}

std::string_view Decoder::hook_name(uint32_t id) const {
    return id < hook_names_.size() ? hook_names_[id] : unnamed;
}

void Decoder::decode(const Record& record, Event& event) {
    const sm_event_header& h = record.header;
    event.tsc = h.tsc;
    event.realtime_ns = clock_map_.to_realtime_ns(h.tsc);
    event.seq = h.seq;
    event.cr3 = h.cr3;
    event.cpu = h.cpu & 0xfff;
    event.hook = h.hook;
    event.no_task = h.flags & SM_EVENT_NO_TASK;
    event.no_body = h.flags & SM_EVENT_NO_BODY;
    event.process = {Gva(h.task), h.tid, h.pid, h.ppid, h.uid, to_comm(h.comm)};

    switch (h.type) {
    case SM_EVENT_SYSCALL_ENTER: {
        auto& body = event.body.emplace<SyscallEnter>();
        body.call = enter(record, record.syscall_enter.nr);
        std::copy(std::begin(record.syscall_enter.args), std::end(record.syscall_enter.args),
                  body.args.begin());
        break;
    }
    case SM_EVENT_SYSCALL_EXIT: {
        auto& body = event.body.emplace<SyscallExit>();
        body.call = exit(record, record.syscall_exit.nr);
        body.ret = record.syscall_exit.ret;
        body.error = errno_name(body.ret);
        break;
    }
    case SM_EVENT_SWITCH: {
        const sm_body_switch& b = record.context_switch;
        event.body =
            Switch{b.prev_state, Gva(b.next_task), b.next_tid, b.next_pid, to_comm(b.next_comm)};
        break;
    }
    case SM_EVENT_HOOK: {
        auto& body = event.body.emplace<HookHit>();
        body.name = hook_name(h.hook);
        std::copy(std::begin(record.hook.args), std::end(record.hook.args), body.args.begin());
        body.ax = record.hook.ax;
        body.sp = record.hook.sp;
        body.flags = record.hook.flags;
        break;
    }
    case SM_EVENT_LOST: {
        auto& body = event.body.emplace<Lost>();
        std::copy(std::begin(record.lost.lost), std::end(record.lost.lost), body.by_type.begin());
        break;
    }
    default: // the reader lets no other type pass than SM_EVENT_UNKNOWN_HOOK
        event.body = UnknownHook{Gva(record.unknown.rip), Gva(record.unknown.rsp)};
        break;
    }
}

} // namespace shadowmon
