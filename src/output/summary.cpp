// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/summary.h>

#include "src/events/syscall_names.h"

#include <algorithm>
#include <functional>
#include <string_view>

namespace shadowmon {
namespace {

constexpr Comm others{{'(', 'o', 't', 'h', 'e', 'r', 's', ')'}};

template <typename T, typename Less> void keep_top(std::vector<T>& all, size_t top, Less less) {
    const size_t kept = std::min(top, all.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<ptrdiff_t>(kept), all.end(), less);
    all.resize(kept);
}

} // namespace

size_t SummaryCollector::Hash::operator()(const Key& key) const {
    const std::string_view bytes(key.comm.bytes.data(), key.comm.bytes.size());
    return std::hash<std::string_view>()(bytes) ^ key.pid * 0x9e3779b97f4a7c15u;
}

ProcessCount& SummaryCollector::process(const Process& process) {
    if (last_process_ && last_process_->pid == process.pid && last_process_->comm == process.comm)
        return *last_process_;
    Key key{process.pid, process.comm};
    auto found = processes_.find(key);
    if (found == processes_.end()) {
        if (processes_.size() >= max_processes)
            key = {0, others};
        found = processes_.try_emplace(key).first;
        found->second.pid = key.pid;
        found->second.comm = key.comm;
    }
    last_process_ = &found->second;
    return *last_process_;
}

SummaryCollector::Calls& SummaryCollector::calls(const Syscall& call) {
    const auto number = static_cast<uint32_t>(call.nr);
    return calls_[call.compat][std::min<size_t>(number, numbers)];
}

void SummaryCollector::event(const Event& event) {
    ++totals_.by_type[event_type(event)];
    totals_.late += event.late;
    if (event.get_if<Lost>() || event.get_if<HookRetired>())
        return;
    if (totals_.events++ == 0)
        totals_.first_ns = event.realtime_ns;
    totals_.first_ns = std::min(totals_.first_ns, event.realtime_ns);
    totals_.last_ns = std::max(totals_.last_ns, event.realtime_ns);

    ProcessCount& counts = process(event.process);
    ++counts.events;
    if (const auto* enter = event.get_if<SyscallEnter>()) {
        ++counts.syscalls;
        ++calls(enter->call).calls;
    } else if (const auto* exit = event.get_if<SyscallExit>()) {
        Calls& c = calls(exit->call);
        ++c.returns;
        c.errors += is_error(exit->ret);
    } else if (event.get_if<Switch>()) {
        ++counts.switches;
    } else if (const auto* hit = event.get_if<HookHit>()) {
        ++hits_[hit->name];
    } else if (const auto* irq = event.get_if<IrqEnter>()) {
        ++irqs_[irq->handler].entries;
    } else if (const auto* left = event.get_if<IrqExit>()) {
        IrqCount& c = irqs_[left->handler];
        ++(left->duration_ns ? c.timed : c.unpaired);
        c.total_ns += left->duration_ns.value_or(0);
    }
}

Summary SummaryCollector::summary(const LostCounter& lost, size_t top) const {
    Summary result = totals_;
    result.lost = lost;

    for (const auto& [key, counts] : processes_)
        result.processes.push_back(counts);
    result.process_count = processes_.size();
    keep_top(result.processes, top, [](const ProcessCount& a, const ProcessCount& b) {
        return a.events != b.events ? a.events > b.events : a.pid < b.pid;
    });

    for (const bool compat : {false, true}) {
        for (size_t i = 0; i <= numbers; ++i) {
            const Calls& c = calls_[compat][i];
            if (c.calls == 0 && c.returns == 0)
                continue;
            const int32_t nr = i < numbers ? static_cast<int32_t>(i) : -1;
            const std::string name = nr < 0 ? "(others)" : syscall_label(nr, compat);
            result.syscalls.push_back({name, nr, compat, c.calls, c.returns, c.errors});
        }
    }
    result.syscall_count = result.syscalls.size();
    keep_top(result.syscalls, top, [](const SyscallCount& a, const SyscallCount& b) {
        if (a.calls != b.calls)
            return a.calls > b.calls;
        return a.compat != b.compat ? b.compat : a.nr < b.nr;
    });

    for (const auto& [handler, counts] : irqs_) {
        result.irqs.push_back(counts);
        result.irqs.back().handler = handler;
    }
    result.irq_count = result.irqs.size();
    keep_top(result.irqs, top, [](const IrqCount& a, const IrqCount& b) {
        if (a.total_ns != b.total_ns)
            return a.total_ns > b.total_ns;
        return a.entries != b.entries ? a.entries > b.entries : a.handler < b.handler;
    });

    for (const auto& [name, hits] : hits_)
        result.hooks.push_back({std::string(name), hits});
    result.hook_count = result.hooks.size();
    keep_top(result.hooks, top, [](const HookCount& a, const HookCount& b) {
        return a.hits != b.hits ? a.hits > b.hits : a.name < b.name;
    });
    return result;
}

} // namespace shadowmon
