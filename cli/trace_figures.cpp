// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/trace_figures.h"

namespace shadowmon {

std::vector<Figure> trace_figures(const kvm_views_stats& stats, uint64_t events,
                                  uint64_t pause_tsc) {
    uint64_t by_events = stats.calls + stats.violations + stats.bad_vmfunc;
    auto number = [](uint64_t n) { return static_cast<double>(n); };
    double per_event = events ? number(by_events) / number(events) : 0.0;
    return {
        {"vm_exits", "VM exits of the guest", number(stats.exits)},
        {"vm_exits_mapping", "  first use of our pages", number(stats.region_faults)},
        {"vm_exits_waiting_for_room", "  waiting for room", number(stats.calls)},
        {"vm_exits_violations", "  forbidden accesses",
         number(stats.violations + stats.bad_vmfunc)},
        {"vm_exits_per_event", "VM exits per event", per_event},
        {"pause_tsc", "arming pause (TSC ticks)", number(pause_tsc)},
    };
}

} // namespace shadowmon
