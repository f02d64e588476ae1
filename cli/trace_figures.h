// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/kvm_views.h"
#include "src/output/summary.h"

#include <cstdint>
#include <vector>

namespace shadowmon {

/// The figures of a trace that come from the host's counters: VM exits in all (the
/// guest's own life makes most of them) and those that monitoring caused. The first use
/// of a page of the region costs one exit per view, once, however many events follow;
/// the exits per event are therefore counted without them. `stats` are the differences
/// between arming and the end.
std::vector<Figure> trace_figures(const kvm_views_stats& stats, uint64_t events,
                                  uint64_t pause_tsc);

} // namespace shadowmon
