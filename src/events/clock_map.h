// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"

#include <cstdint>

namespace shadowmon {

/// One instant on both clocks, as struct kvm_views_vcpu has it.
struct ClockSample {
    uint64_t guest_tsc;
    uint64_t realtime_ns;
    uint32_t tsc_khz; ///< frequency of the guest TSC
};

/// Turns guest TSC values into nanoseconds of CLOCK_REALTIME, exactly (rounded down)
/// and monotonously: a later TSC never gives an earlier time, also across resync().
/// Results are held within 0..INT64_MAX, so any of them can be shown as a date.
class ClockMap {
  public:
    /// Maps every TSC to 0.
    ClockMap() = default;

    /// Fails if the frequency is 0 or the time is beyond INT64_MAX nanoseconds.
    static Result<ClockMap> make(const ClockSample& sample);

    uint64_t to_realtime_ns(uint64_t tsc) const;

    /// How long so many ticks are, by the frequency of the last sample, rounded down; not bent by
    /// resync() as the difference of two times is.
    uint64_t ticks_to_ns(uint64_t ticks) const;

    /// Takes a newer sample for TSC values from its own on; earlier ones keep their
    /// times. Corrects the drift of a frequency that is only known in kHz. If the new
    /// sample would set the time back, time stands still until it has caught up.
    /// Fails like make(), or if the sample is older than the last; then nothing changes.
    Status resync(const ClockSample& sample);

  private:
    struct Segment {
        uint64_t tsc = 0;
        uint64_t ns = 0;
        uint32_t khz = 0;
        uint64_t floor_ns = 0;

        uint64_t at(uint64_t t) const;
    };

    Segment now_;
    Segment before_; // for events that were recorded before the last resync
};

} // namespace shadowmon
