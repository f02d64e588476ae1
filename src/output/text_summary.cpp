// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/text_output.h"
#include <shadowmonitor/escape.h>

#include <fmt/format.h>
#include <iterator>

namespace shadowmon {
namespace {

using Counts = TypeCounts;

void put_types(std::string& out, const Counts& counts, std::string_view indent) {
    for (unsigned type = 0; type < counts.size(); ++type) {
        if (counts[type] != 0)
            fmt::format_to(std::back_inserter(out), "{}{:<22}{:>12}\n", indent,
                           event_type_name(type), counts[type]);
    }
}

void put_lost(std::string& out, const LostCounter& lost) {
    auto at = std::back_inserter(out);
    fmt::format_to(at, "{:<24}{:>12}\n", "events lost", lost.total());
    put_types(out, lost.by_type(), "  ");
    for (const RingLoss& ring : lost.rings()) {
        fmt::format_to(at, "  ring {}\n", ring.ring);
        put_types(out, ring.dropped, "    no room: ");
        put_types(out, ring.abandoned, "    ring broken: ");
        if (ring.missing != 0)
            fmt::format_to(at, "    never accounted for: {}\n", ring.missing);
    }
    if (lost.broken_rings() != 0)
        fmt::format_to(at, "{:<24}{:>12}\n", "rings found broken", lost.broken_rings());
}

} // namespace

std::string to_text(const Summary& summary) {
    std::string out;
    auto at = std::back_inserter(out);
    const double seconds = static_cast<double>(summary.last_ns - summary.first_ns) * 1e-9;
    fmt::format_to(at, "{:<24}{:>12}", "events", summary.events);
    if (seconds > 0)
        fmt::format_to(at, "  in {:.3f} s, {:.0f} per second", seconds,
                       static_cast<double>(summary.events) / seconds);
    out += '\n';
    put_types(out, summary.by_type, "  ");
    put_lost(out, summary.lost);
    if (summary.late != 0)
        fmt::format_to(at, "{:<24}{:>12}\n", "out of order", summary.late);
    for (const Figure& figure : summary.figures)
        fmt::format_to(at, "{:<24}{:>12.6g}\n", figure.label, figure.value);

    if (!summary.processes.empty()) {
        fmt::format_to(at, "\nbusiest processes ({} of {})\n", summary.processes.size(),
                       summary.process_count);
        fmt::format_to(at, "{:>10}  {:<16}{:>12}{:>14}{:>12}\n", "pid", "comm", "events",
                       "system calls", "switches");
        for (const ProcessCount& p : summary.processes)
            fmt::format_to(at, "{:>10}  {:<16}{:>12}{:>14}{:>12}\n", p.pid,
                           escape(p.comm.view(), true), p.events, p.syscalls, p.switches);
    }
    if (!summary.syscalls.empty()) {
        fmt::format_to(at, "\nbusiest system calls ({} of {})\n", summary.syscalls.size(),
                       summary.syscall_count);
        fmt::format_to(at, "{:<24}{:>12}{:>12}{:>12}\n", "name", "calls", "returns", "errors");
        for (const SyscallCount& s : summary.syscalls)
            fmt::format_to(at, "{:<24}{:>12}{:>12}{:>12}\n", s.name + (s.compat ? "@32" : ""),
                           s.calls, s.returns, s.errors);
    }
    if (!summary.hooks.empty()) {
        fmt::format_to(at, "\nhooks hit most ({} of {})\n", summary.hooks.size(),
                       summary.hook_count);
        for (const HookCount& h : summary.hooks)
            fmt::format_to(at, "{:<24}{:>12}\n", escape(h.name, true), h.hits);
    }
    if (!summary.irqs.empty()) {
        fmt::format_to(at, "\ninterrupts that took longest ({} of {} handlers)\n",
                       summary.irqs.size(), summary.irq_count);
        fmt::format_to(at, "{:<36}{:>12}{:>12}{:>12}{:>14}\n", "handler", "entries", "timed",
                       "unpaired", "total us");
        for (const IrqCount& i : summary.irqs)
            fmt::format_to(at, "{:<36}{:>12}{:>12}{:>12}{:>14.3f}\n", escape(i.handler, true),
                           i.entries, i.timed, i.unpaired, static_cast<double>(i.total_ns) * 1e-3);
    }
    return out;
}

} // namespace shadowmon
