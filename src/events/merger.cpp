// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/merger.h"

#include "src/events/shared_memory.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace shadowmon {

HostClock steady_clock() {
    return [] { return std::chrono::steady_clock::now().time_since_epoch(); };
}

Merger::Merger(std::vector<RingReader> rings, const std::vector<const sm_slot*>& slots,
               Decoder decoder, HostClock clock, MergerOptions options)
    : rings_(std::move(rings)), decoder_(std::move(decoder)), clock_(std::move(clock)),
      options_(options) {
    assert(slots.size() == rings_.size());
    for (const sm_slot* slot : slots)
        channels_.push_back({.slot = slot});
    heap_.reserve(rings_.size());
}

void Merger::begin_poll() {
    now_ = clock_();
    t0_ = passed_instant();
    limit_ = std::min(t0_, std::max(lowest_watermark(), highest_overdue()));
    notice_step_back();
    collect_fronts();
}

void Merger::begin_drain() {
    t0_ = limit_ = std::numeric_limits<uint64_t>::max();
    collect_fronts();
}

/// T0. The records held back since the last poll count as well, so that one with an
/// absurd time stamp, as a guest can cause by setting its TSC, comes out at the next poll.
uint64_t Merger::passed_instant() {
    uint64_t instant = 0;
    for (RingReader& ring : rings_) {
        if (ring.broken())
            continue;
        instant = std::max(instant, ring.last_tsc());
        if (const Record* record = ring.front())
            instant = std::max(instant, record->header.tsc);
    }
    return instant;
}

uint64_t Merger::lowest_watermark() {
    uint64_t lowest = std::numeric_limits<uint64_t>::max();
    for (size_t i = 0; i < channels_.size(); ++i) {
        Channel& channel = channels_[i];
        const bool was_busy = channel.busy;
        channel.busy = load_acquire(&channel.slot->busy) != 0 && !rings_[i].broken();
        if (!channel.busy)
            continue;
        const uint64_t claims = load_acquire(&channel.slot->claims);
        const uint64_t tsc = load_acquire(&channel.slot->tsc);
        if (!was_busy || claims != channel.claims || tsc != channel.tsc) {
            channel.claims = claims;
            channel.tsc = tsc;
            channel.busy_since = now_;
        }
        if (now_ - channel.busy_since > options_.max_wait)
            continue;
        // The stamp may still be that of an earlier claim: that is lower, so no harm.
        lowest = std::min(lowest, std::max(rings_[i].last_tsc(), tsc));
    }
    return lowest;
}

/// TSC up to which records have waited too long although no single claim has: with the
/// TSCs of its vCPUs set apart by the guest, a busy slot's watermark can stay low for ever.
uint64_t Merger::highest_overdue() const {
    uint64_t highest = 0;
    for (const Channel& channel : channels_) {
        if (channel.held && now_ - channel.held_since > options_.max_wait)
            highest = std::max(highest, channel.held_tsc);
    }
    return highest;
}

/// Nothing is given out that was not recorded. So if all that is recorded is earlier than
/// what was given out, the guest has set its TSC back, and what follows is not late.
void Merger::notice_step_back() {
    uint64_t last = 0;
    for (size_t i = 0; i < rings_.size(); ++i) {
        if (channels_[i].busy)
            return; // may have recorded an event, but not yet its time
        last = std::max(last, rings_[i].last_tsc());
    }
    if (last < emitted_tsc_)
        emitted_tsc_ = 0;
}

void Merger::collect_fronts() {
    heap_.clear();
    for (uint32_t i = 0; i < rings_.size(); ++i) {
        rings_[i].refresh();
        if (const Record* record = rings_[i].front())
            heap_.push_back({record->header.tsc, i});
        collect_error(i);
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
}

const Event* Merger::next() {
    if (heap_.empty() || heap_.front().tsc > limit_)
        return nullptr;
    const uint32_t index = heap_.front().ring;
    RingReader& ring = rings_[index];
    decoder_.decode(*ring.front(), event_);
    event_.ring = ring.index();
    event_.late = event_.tsc < emitted_tsc_;
    late_ += event_.late;
    emitted_tsc_ = std::max(emitted_tsc_, event_.tsc);
    ring.pop();
    replace_top();
    return &event_;
}

/// Puts the next record of the ring that was just read in its place in the heap.
void Merger::replace_top() {
    const uint32_t index = heap_.front().ring;
    const Record* record = rings_[index].front();
    if (!record) {
        std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
        heap_.pop_back();
        collect_error(index);
        return;
    }
    const Next entry{record->header.tsc, index};
    size_t hole = 0;
    for (size_t child = 1; child < heap_.size(); child = 2 * hole + 1) {
        if (child + 1 < heap_.size() && heap_[child] > heap_[child + 1])
            ++child;
        if (!(entry > heap_[child]))
            break;
        heap_[hole] = heap_[child];
        hole = child;
    }
    heap_[hole] = entry;
}

void Merger::end_poll() {
    for (size_t i = 0; i < rings_.size(); ++i) {
        Channel& channel = channels_[i];
        const Record* record = rings_[i].front();
        const bool held = record && record->header.tsc <= t0_;
        if (held && (!channel.held || channel.held_seq != record->header.seq)) {
            channel.held_seq = record->header.seq;
            channel.held_tsc = record->header.tsc;
            channel.held_since = now_;
        }
        channel.held = held;
        rings_[i].release();
    }
}

void Merger::collect_error(uint32_t index) {
    const std::optional<Error>& error = rings_[index].error();
    if (error && !std::exchange(channels_[index].error_taken, true))
        errors_.push_back(*error);
}

} // namespace shadowmon
