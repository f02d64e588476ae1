// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/events/decoder.h"
#include "src/events/ring_reader.h"
#include <shadowmonitor/event.h>
#include <shadowmonitor/lost_counter.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace shadowmon {

/// Monotonic host time, injected so that tests need not wait.
using HostClock = std::function<std::chrono::nanoseconds()>;
HostClock steady_clock();

struct MergerOptions {
    /// How long a slot that stays busy may hold back the events of the others.
    std::chrono::nanoseconds max_wait = std::chrono::milliseconds(100);
};

/// Reads all rings and gives their events in the order of the guest's TSC.
///
///     Merger merger(std::move(rings), slots, Decoder(clock_map));
///     merger.poll([&](const Event& e) { output.event(e); });
///     for (const Error& e : merger.take_errors()) ...
///
/// An event goes out once nothing earlier can come any more. Each poll
///   1. takes T0, the highest TSC that any ring has recorded: an instant that has passed;
///   2. looks at every slot. An idle one will only make events later than T0; a busy
///      one is making an event no earlier than its ring's last and its own stamp,
///      which is its watermark;
///   3. only then looks how far every ring has got;
///   4. gives out all events up to the lowest of T0 and the watermarks.
///
/// A slot that has stayed in one and the same claim for longer than
/// MergerOptions::max_wait (a vCPU that the host does not run) holds nothing back
/// any more. What it makes in the end comes out marked `late`, as does every event
/// whose TSC is lower than one already given out. No event that a ring holds waits
/// much longer than max_wait, whatever the guest does with its TSC.
///
/// One thread uses it. The memory of rings and slots must outlive it.
class Merger {
  public:
    /// slots[i] is the one that writes rings[i].
    Merger(std::vector<RingReader> rings, const std::vector<const sm_slot*>& slots, Decoder decoder,
           HostClock clock = steady_clock(), MergerOptions options = {});

    /// Calls `visit(const Event&)` for each event that is due, in order; returns how
    /// many. Ends also under constant load: takes what is there at its start.
    template <typename Visit> size_t poll(Visit&& visit) {
        begin_poll();
        return run(std::forward<Visit>(visit));
    }

    /// The same for all that is left, without regard to busy slots. For the end, when
    /// no vCPU is in the gate any more or the VM is gone.
    template <typename Visit> size_t drain(Visit&& visit) {
        begin_drain();
        return run(std::forward<Visit>(visit));
    }

    /// Rings that were found broken since the last call, one error each.
    std::vector<Error> take_errors() { return std::exchange(errors_, {}); }

    LostCounter lost() const { return LostCounter(rings_); }
    uint64_t late() const { return late_; } ///< events given out marked late
    Decoder& decoder() { return decoder_; }

    /// True if events were held back by the last poll: poll again soon.
    bool holding() const { return !heap_.empty(); }

  private:
    /// What a slot was seen doing, to tell a long claim from many short ones, and
    /// how long the first record of its ring has been held back.
    struct Channel {
        const sm_slot* slot;
        bool busy = false;
        uint64_t claims = 0;
        uint64_t tsc = 0;
        std::chrono::nanoseconds busy_since{};
        bool held = false;
        uint64_t held_seq = 0;
        uint64_t held_tsc = 0;
        std::chrono::nanoseconds held_since{};
        bool error_taken = false;
    };
    struct Next {
        uint64_t tsc;
        uint32_t ring;
        bool operator>(const Next& other) const { return tsc > other.tsc; }
    };

    template <typename Visit> size_t run(Visit&& visit) {
        size_t n = 0;
        for (; const Event* event = next(); ++n)
            visit(*event);
        end_poll();
        return n;
    }

    void begin_poll();
    void begin_drain();
    const Event* next();
    void end_poll();

    uint64_t passed_instant();
    uint64_t lowest_watermark();
    uint64_t highest_overdue() const;
    void notice_step_back();
    void collect_fronts();
    void replace_top();
    void collect_error(uint32_t ring);

    std::vector<RingReader> rings_;
    std::vector<Channel> channels_; // one per ring
    Decoder decoder_;
    HostClock clock_;
    MergerOptions options_;

    // Of the present poll.
    std::chrono::nanoseconds now_{};
    uint64_t t0_ = 0;
    uint64_t limit_ = 0;
    std::vector<Next> heap_; // lowest TSC first; rings that have a record
    Event event_;

    uint64_t emitted_tsc_ = 0; // highest that was given out
    uint64_t late_ = 0;
    std::vector<Error> errors_;
};

} // namespace shadowmon
