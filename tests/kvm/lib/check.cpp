// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/check.h"

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <unistd.h>
#include <utility>

namespace shadowmon::kvmtest {

namespace {
std::string on_failure;
const auto start_time = std::chrono::steady_clock::now();

double seconds() {
    const std::chrono::duration<double> since = std::chrono::steady_clock::now() - start_time;
    return since.count();
}

void say(const char* prefix, const char* format, va_list args) {
    char text[1024];
    int length = snprintf(text, sizeof text, "%s", prefix);
    length += vsnprintf(text + length, sizeof text - length - 1, format, args);
    if (length > static_cast<int>(sizeof text) - 2)
        length = sizeof text - 2;
    text[length++] = '\n';
    // One write per line, so that lines of several processes do not mix.
    [[maybe_unused]] ssize_t written = write(STDOUT_FILENO, text, length);
}
} // namespace

void fail_at(const char* file, int line, const char* format, ...) {
    int error = errno;
    char prefix[384];
    snprintf(prefix, sizeof prefix, "# FAILED %s:%d: %s%s", file, line, on_failure.c_str(),
             on_failure.empty() ? "" : ": ");
    va_list args;
    va_start(args, format);
    errno = error;
    say(prefix, format, args);
    va_end(args);
    _exit(status_failed);
}

void say_on_failure(std::string what) { on_failure = std::move(what); }

void skip(const char* format, ...) {
    va_list args;
    va_start(args, format);
    say("# SKIP ", format, args);
    va_end(args);
    _exit(status_skipped);
}

void note(const char* format, ...) {
    va_list args;
    va_start(args, format);
    char prefix[32];
    snprintf(prefix, sizeof prefix, "# %6.2f s: ", seconds());
    say(prefix, format, args);
    va_end(args);
}

} // namespace shadowmon::kvmtest
