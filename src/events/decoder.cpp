// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/decoder.h"

#include "src/events/syscall_names.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>

namespace shadowmon {
namespace {

constexpr std::string_view unnamed = "?";

// A guest cannot have more tasks than this (PID_MAX_LIMIT); more entries than that can
// only come of lies about task addresses.
constexpr size_t max_tasks = 4 * 1024 * 1024;

Comm to_comm(const char (&bytes)[SM_COMM_SIZE]) {
    Comm comm;
    std::copy(std::begin(bytes), std::end(bytes), comm.bytes.begin());
    return comm;
}

std::optional<uint32_t> known(uint32_t number) {
    return number == SM_IRQ_UNKNOWN ? std::nullopt : std::optional(number);
}

Syscall named(uint64_t nr, bool compat) {
    const auto number = static_cast<int32_t>(static_cast<uint32_t>(nr));
    return {number, compat, syscall_name(number, compat)};
}

} // namespace

Syscall Decoder::enter(const Record& record, uint64_t nr) {
    const bool compat = record.header.flags & SM_EVENT_COMPAT;
    if (compat) {
        if (in_compat_.size() >= max_tasks)
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
    if (name.size() > max_hook_name)
        name.resize(max_hook_name);
    if (id >= hook_names_.size())
        hook_names_.resize(id + size_t{1}, unnamed);
    hook_names_[id] = *names_.insert(std::move(name)).first;
}

std::string_view Decoder::hook_name(uint32_t id) const {
    return id < hook_names_.size() ? hook_names_[id] : unnamed;
}

void Decoder::set_irq_hook(uint32_t id, std::string function) {
    if (function.size() > max_hook_name)
        function.resize(max_hook_name);
    if (id >= irq_functions_.size())
        irq_functions_.resize(id + size_t{1}, unnamed);
    irq_functions_[id] = *names_.insert(std::move(function)).first;
}

std::string_view Decoder::irq_function(uint32_t id) const {
    return id < irq_functions_.size() ? irq_functions_[id] : unnamed;
}

/// The names are the guest's: only so many are kept.
std::string_view Decoder::handler_name(Gva handler) {
    std::string name = symbolizer_ ? symbolizer_(handler) : std::string();
    if (name.empty())
        name = fmt::format("{:#x}", handler.value);
    if (name.size() > max_hook_name)
        name.resize(max_hook_name);
    if (auto known = handlers_.find(name); known != handlers_.end())
        return *known;
    if (handlers_.size() >= max_handlers)
        return unnamed;
    return *handlers_.insert(std::move(name)).first;
}

IrqEnter Decoder::irq_enter(const Record& record) {
    const sm_body_irq_enter& b = record.irq_enter;
    IrqPairing::Entry entry;
    entry.tsc = record.header.tsc;
    entry.function = irq_function(record.header.hook);
    entry.handler = b.handler ? handler_name(Gva(b.handler)) : entry.function;
    entry.vector = b.vector;
    entry.irq = b.irq;
    irqs_.enter(record.header.cpu, b.nth, entry);
    return {known(b.vector), known(b.irq), entry.handler};
}

IrqExit Decoder::irq_exit(const Record& record) {
    const sm_body_irq_exit& b = record.irq_exit;
    const std::string_view function = irq_function(record.header.hook);
    const uint64_t tsc = record.header.tsc;
    auto entry = irqs_.exit(record.header.cpu, b.nth, tsc, function);
    if (!entry)
        return {known(b.vector), std::nullopt, function, std::nullopt};
    return {known(entry->vector), known(entry->irq), entry->handler,
            clock_map_.ticks_to_ns(tsc - entry->tsc)};
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
    case SM_EVENT_IRQ_ENTER:
        event.body = irq_enter(record);
        break;
    case SM_EVENT_IRQ_EXIT:
        event.body = irq_exit(record);
        break;
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
