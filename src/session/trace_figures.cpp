// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/trace_figures.h"

namespace shadowmon {

namespace {

double number(uint64_t n) { return static_cast<double>(n); }
double ratio(uint64_t a, uint64_t b) { return b ? number(a) / number(b) : 0.0; }

} // namespace

std::vector<Figure> trace_figures(const TraceCounts& counts) {
    const kvm_views_stats& stats = counts.stats;
    const ShadowTime& time = counts.shadow_time;
    const uint64_t by_events = stats.calls + stats.violations + stats.bad_vmfunc;
    std::vector<Figure> figures = {
        {"vm_exits", "VM exits of the guest", number(stats.exits)},
        {"vm_exits_mapping", "  mapping our pages", number(stats.region_faults)},
        {"vm_exits_waiting_for_room", "  waiting for room", number(stats.calls)},
        {"vm_exits_violations", "  forbidden accesses", number(stats.violations)},
        {"vm_exits_bad_vmfunc", "  forbidden VMFUNCs", number(stats.bad_vmfunc)},
        {"vm_exits_per_event", "VM exits per event", ratio(by_events, counts.events)},
    };
    if (time.samples)
        figures.push_back({"shadow_ticks_per_event", "TSC ticks per event in the shadow view",
                           ratio(time.ticks, time.samples)});
    figures.insert(figures.end(),
                   {
                       {"shadow_ticks_sampled", "  sampled events", number(time.samples)},
                       {"shadow_ticks_cut", "  left out, host ran", number(time.cut)},
                       {"pause_tsc", "arming pause (TSC ticks)", number(counts.pause_tsc)},
                       {"incidents", "incidents", number(counts.incidents)},
                       {"incidents_lost", "  too many to be told", number(stats.events_lost)},
                       {"slots_freed", "  events cut off", number(counts.freed_slots)},
                       {"patches_left", "patches left alone", number(counts.places_left)},
                   });
    return figures;
}

} // namespace shadowmon
