// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <cstdint>

namespace shadowmon {

/// Writes CLOCK_REALTIME nanoseconds as UTC. Keeps the date and second that it wrote
/// last, as the next event mostly has the same.
class TimeFormat {
  public:
    /// "2026-11-23T09:55:01.123456789Z": rfc3339_size characters; returns the end.
    char* rfc3339(char* out, uint64_t realtime_ns);

    /// "09:55:01.123456789"
    char* time_of_day(char* out, uint64_t realtime_ns);

    /// "2026-11-23"
    char* date(char* out, uint64_t realtime_ns);

    static constexpr unsigned rfc3339_size = 30;

  private:
    void update(uint64_t second);

    uint64_t second_ = ~uint64_t{0};
    std::array<char, 19> text_{}; // date, T, time of day
};

} // namespace shadowmon
