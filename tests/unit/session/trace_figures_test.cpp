// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/trace_figures.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace shadowmon {
namespace {

TEST(Figures, ExitsPerEventLeaveOutFirstUses) {
    TraceCounts counts;
    kvm_views_stats& stats = counts.stats;
    stats.exits = 1000;
    stats.region_faults = 47;
    std::map<std::string, double> figures;
    auto collect = [&](uint64_t events) {
        figures.clear();
        counts.events = events;
        for (const Figure& f : trace_figures(counts))
            figures[f.key] = f.value;
    };
    collect(100);
    EXPECT_EQ(figures["vm_exits"], 1000);
    EXPECT_EQ(figures["vm_exits_mapping"], 47);
    EXPECT_EQ(figures["vm_exits_per_event"], 0);
    stats.calls = 20;
    stats.violations = 5;
    collect(100);
    EXPECT_EQ(figures["vm_exits_per_event"], 0.25);
    collect(0);
    EXPECT_EQ(figures["vm_exits_per_event"], 0);
}

TEST(Figures, EachCounterHasItsOwn) {
    TraceCounts counts;
    counts.stats.calls = 1;
    counts.stats.violations = 2;
    counts.stats.bad_vmfunc = 3;
    counts.stats.events_lost = 4;
    counts.pause_tsc = 5;
    counts.shadow_time = {.ticks = 60, .samples = 8, .cut = 7};
    counts.incidents = 9;
    counts.freed_slots = 10;
    counts.places_left = 11;
    std::map<std::string, double> figures;
    for (const Figure& f : trace_figures(counts))
        figures[f.key] = f.value;
    EXPECT_EQ(figures["vm_exits_waiting_for_room"], 1);
    EXPECT_EQ(figures["vm_exits_violations"], 2);
    EXPECT_EQ(figures["vm_exits_bad_vmfunc"], 3);
    EXPECT_EQ(figures["incidents_lost"], 4);
    EXPECT_EQ(figures["pause_tsc"], 5);
    EXPECT_EQ(figures["shadow_ticks_per_event"], 7.5);
    EXPECT_EQ(figures["shadow_ticks_sampled"], 8);
    EXPECT_EQ(figures["shadow_ticks_cut"], 7);
    EXPECT_EQ(figures["incidents"], 9);
    EXPECT_EQ(figures["slots_freed"], 10);
    EXPECT_EQ(figures["patches_left"], 11);
    counts.shadow_time = {};
    for (const Figure& f : trace_figures(counts))
        EXPECT_NE(f.key, "shadow_ticks_per_event") << "of no sample";
}

} // namespace
} // namespace shadowmon
