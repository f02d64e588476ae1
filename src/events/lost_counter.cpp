// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/lost_counter.h>

#include "src/events/ring_reader.h"

#include <numeric>

namespace shadowmon {
namespace {

uint64_t sum(const TypeCounts& counts) {
    return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

uint64_t difference(uint64_t all, uint64_t part) { return all > part ? all - part : 0; }

} // namespace

uint64_t RingLoss::total() const { return sum(dropped) + sum(abandoned) + missing; }

LostCounter::LostCounter(std::span<const RingReader> rings) {
    for (const RingReader& ring : rings) {
        RingLoss loss;
        loss.ring = ring.index();
        loss.dropped = ring.dropped();
        loss.missing = ring.missing();
        unreported_ += difference(sum(loss.dropped), sum(ring.reported_lost()));
        if (ring.broken()) {
            ++broken_rings_;
            const TypeCounts recorded = ring.recorded();
            // A notice of loss is no event of the guest; what it tells is in `dropped`.
            for (unsigned type = SM_EVENT_LOST + 1; type < SM_EVENT_TYPES; ++type)
                loss.abandoned[type] = difference(recorded[type], ring.read()[type]);
        }
        if (loss.total() != 0)
            rings_.push_back(loss);
    }
}

TypeCounts LostCounter::by_type() const {
    TypeCounts counts{};
    for (const RingLoss& loss : rings_) {
        for (size_t type = 0; type < counts.size(); ++type)
            counts[type] += loss.dropped[type] + loss.abandoned[type];
    }
    return counts;
}

uint64_t LostCounter::total() const {
    uint64_t all = 0;
    for (const RingLoss& loss : rings_)
        all += loss.total();
    return all;
}

} // namespace shadowmon
