// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/kvm_views.h"
#include "src/session/monitor_session.h"

#include <cstdint>
#include <shadowmonitor/summary.h>
#include <vector>

namespace shadowmon {

/// What was counted beside the events of a trace.
struct TraceCounts {
    kvm_views_stats stats{}; ///< the differences between arming and the end
    uint64_t events = 0;
    uint64_t pause_tsc = 0;
    ShadowTime shadow_time;
    uint64_t incidents = 0; ///< told or counted by the trace loop
    uint64_t freed_slots = 0;
    uint64_t places_left = 0; ///< patched places that the guest had changed
};

/// The figures of a trace that come from counters: VM exits in all (the guest's own life
/// makes most of them) and those that monitoring caused, what an event took, and what the
/// guest tried. A page of the region that has to be mapped again costs one exit per view,
/// however many events follow; the exits per event are therefore counted without them.
std::vector<Figure> trace_figures(const TraceCounts& counts);

} // namespace shadowmon
