// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/time_format.h"

#include <algorithm>
#include <ctime>
#include <fmt/compile.h>
#include <fmt/format.h>

namespace shadowmon {
namespace {

constexpr uint64_t ns_per_second = 1'000'000'000;
constexpr size_t date_size = 10;

char* fraction(char* out, uint64_t realtime_ns) {
    auto rest = static_cast<uint32_t>(realtime_ns % ns_per_second);
    *out = '.';
    for (int i = 9; i > 0; --i, rest /= 10)
        out[i] = static_cast<char>('0' + rest % 10);
    return out + 10;
}

} // namespace

void TimeFormat::update(uint64_t second) {
    if (second == second_)
        return;
    second_ = second;
    const auto time = static_cast<time_t>(second);
    std::tm utc{};
    gmtime_r(&time, &utc);
    fmt::format_to_n(text_.data(), text_.size(), FMT_COMPILE("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}"),
                     utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                     utc.tm_sec);
}

char* TimeFormat::rfc3339(char* out, uint64_t realtime_ns) {
    update(realtime_ns / ns_per_second);
    out = std::copy(text_.begin(), text_.end(), out);
    out = fraction(out, realtime_ns);
    *out++ = 'Z';
    return out;
}

char* TimeFormat::time_of_day(char* out, uint64_t realtime_ns) {
    update(realtime_ns / ns_per_second);
    return fraction(std::copy(text_.begin() + date_size + 1, text_.end(), out), realtime_ns);
}

char* TimeFormat::date(char* out, uint64_t realtime_ns) {
    update(realtime_ns / ns_per_second);
    return std::copy_n(text_.begin(), date_size, out);
}

} // namespace shadowmon
