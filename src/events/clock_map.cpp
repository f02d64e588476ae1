// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/clock_map.h"

#include <algorithm>

namespace shadowmon {
namespace {

// 64-bit TSC differences times a million need 84 bits.
__extension__ using Wide = __int128;

constexpr uint64_t max_ns = INT64_MAX;
constexpr int64_t ns_per_khz = 1'000'000; // nanoseconds in a tick of 1 kHz

Status check(const ClockSample& sample) {
    if (sample.tsc_khz == 0)
        return failf("the guest's TSC frequency is given as 0");
    if (sample.realtime_ns > max_ns)
        return failf("the host's time of day ({} ns) is beyond what a date can show",
                     sample.realtime_ns);
    return {};
}

Wide floor_divide(Wide value, Wide by) {
    Wide quotient = value / by;
    return value % by < 0 ? quotient - 1 : quotient;
}

} // namespace

uint64_t ClockMap::Segment::at(uint64_t t) const {
    if (khz == 0)
        return floor_ns;
    const Wide ticks = static_cast<Wide>(t) - static_cast<Wide>(tsc);
    const Wide result = static_cast<Wide>(ns) + floor_divide(ticks * ns_per_khz, khz);
    return static_cast<uint64_t>(
        std::clamp(result, static_cast<Wide>(floor_ns), static_cast<Wide>(max_ns)));
}

Result<ClockMap> ClockMap::make(const ClockSample& sample) {
    SM_TRY(check(sample));
    ClockMap map;
    map.now_ = {sample.guest_tsc, sample.realtime_ns, sample.tsc_khz, 0};
    map.before_ = map.now_;
    return map;
}

uint64_t ClockMap::to_realtime_ns(uint64_t tsc) const {
    return tsc >= now_.tsc ? now_.at(tsc) : before_.at(tsc);
}

uint64_t ClockMap::ticks_to_ns(uint64_t ticks) const {
    if (now_.khz == 0)
        return 0;
    const Wide ns = static_cast<Wide>(ticks) * ns_per_khz / now_.khz;
    return static_cast<uint64_t>(std::min(ns, static_cast<Wide>(max_ns)));
}

Status ClockMap::resync(const ClockSample& sample) {
    SM_TRY(check(sample));
    if (now_.khz != 0 && sample.guest_tsc < now_.tsc)
        return failf("the clock sample at TSC {} is older than the last one at {}",
                     sample.guest_tsc, now_.tsc);
    // What has been given out for the instant of the new sample is the least that any
    // later one may get.
    const uint64_t floor = now_.khz != 0 ? now_.at(sample.guest_tsc) : 0;
    before_ =
        now_.khz != 0 ? now_ : Segment{sample.guest_tsc, sample.realtime_ns, sample.tsc_khz, 0};
    now_ = {sample.guest_tsc, sample.realtime_ns, sample.tsc_khz, floor};
    return {};
}

} // namespace shadowmon
