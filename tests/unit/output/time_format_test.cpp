// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/time_format.h"

#include <gtest/gtest.h>

#include <string>

namespace shadowmon {
namespace {

std::string rfc3339(TimeFormat& format, uint64_t ns) {
    char text[64];
    return {text, format.rfc3339(text, ns)};
}

std::string time_of_day(TimeFormat& format, uint64_t ns) {
    char text[64];
    return {text, format.time_of_day(text, ns)};
}

TEST(TimeFormat, WritesUtcWithNineDigits) {
    TimeFormat format;
    EXPECT_EQ(rfc3339(format, 1'795'427'701'123'456'789), "2026-11-23T09:55:01.123456789Z");
    EXPECT_EQ(rfc3339(format, 1'795'427'701'000'000'000), "2026-11-23T09:55:01.000000000Z");
    EXPECT_EQ(time_of_day(format, 1'795'427'701'000'000'001), "09:55:01.000000001");
    char date[16];
    EXPECT_EQ(std::string(date, format.date(date, 1'795'427'701'000'000'000)), "2026-11-23");
}

TEST(TimeFormat, GoesBackAndForthBetweenSeconds) {
    TimeFormat format;
    EXPECT_EQ(time_of_day(format, 1'999'999'999), "00:00:01.999999999");
    EXPECT_EQ(time_of_day(format, 2'000'000'000), "00:00:02.000000000");
    EXPECT_EQ(time_of_day(format, 1'999'999'999), "00:00:01.999999999");
}

TEST(TimeFormat, TakesAllThatClockMapGives) {
    TimeFormat format;
    EXPECT_EQ(rfc3339(format, 0), "1970-01-01T00:00:00.000000000Z");
    const std::string last = rfc3339(format, INT64_MAX);
    EXPECT_EQ(last, "2262-04-11T23:47:16.854775807Z");
    EXPECT_EQ(last.size(), TimeFormat::rfc3339_size);
}

} // namespace
} // namespace shadowmon
