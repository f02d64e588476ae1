// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

namespace shadowmon::kvmtest {

constexpr int status_passed = 0;
constexpr int status_failed = 1;
constexpr int status_skipped = 4;

/// Every check is fatal: a message with file and line, then the process ends. vCPU threads and
/// role processes may call these as well.
[[noreturn]] void fail_at(const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

/// Ends the test as skipped; the reason names the piece that is missing.
[[noreturn]] void skip(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// What a failure from now on says first, such as where in a series of cases it is.
void say_on_failure(std::string what);

/// One line of progress.
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));

namespace detail {
template <typename T> std::string show(const T& value) {
    if constexpr (std::is_same_v<T, bool>) {
        return value ? "true" : "false";
    } else if constexpr (std::is_enum_v<T>) {
        return std::to_string(static_cast<long long>(value));
    } else {
        static_assert(std::is_integral_v<T>);
        char text[64];
        auto wide = static_cast<unsigned long long>(value);
        if (std::is_signed_v<T> && static_cast<long long>(value) < 0)
            snprintf(text, sizeof text, "%lld", static_cast<long long>(value));
        else
            snprintf(text, sizeof text, wide < 10 ? "%llu" : "%llu (0x%llx)", wide, wide);
        return text;
    }
}
bool equal(auto a, auto b) {
    // Ioctls and counters mix signs; compare as the 64-bit values that they are.
    return static_cast<int64_t>(a) == static_cast<int64_t>(b);
}
} // namespace detail

#define SM_FAIL(...) ::shadowmon::kvmtest::fail_at(__FILE__, __LINE__, __VA_ARGS__)

#define SM_CHECK(condition)                                                                        \
    do {                                                                                           \
        if (!(condition))                                                                          \
            SM_FAIL("%s is false", #condition);                                                    \
    } while (0)

/// `what` is a sentence that says what was promised.
#define SM_CHECK_EQ(actual, expected, what)                                                        \
    do {                                                                                           \
        auto actual_ = (actual);                                                                   \
        auto expected_ = (expected);                                                               \
        if (!::shadowmon::kvmtest::detail::equal(actual_, expected_))                              \
            SM_FAIL("%s: %s is %s, expected %s", what, #actual,                                    \
                    ::shadowmon::kvmtest::detail::show(actual_).c_str(),                           \
                    ::shadowmon::kvmtest::detail::show(expected_).c_str());                        \
    } while (0)

/// For system calls that cannot fail in a sound test.
#define SM_CHECK_SYS(call)                                                                         \
    ([&] {                                                                                         \
        auto result_ = (call);                                                                     \
        if (result_ < 0)                                                                           \
            SM_FAIL("%s: %m", #call);                                                              \
        return result_;                                                                            \
    }())

} // namespace shadowmon::kvmtest
