// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace shadowmon {

/// Why a step failed: a sentence that names the step and what was seen, and,
/// where the caller may react to it, the errno of the system call behind it.
class [[nodiscard]] Error {
  public:
    explicit Error(std::string message, int code = 0) : message_(std::move(message)), code_(code) {}

    /// The message followed by the text of errno `code`.
    static Error from_errno(std::string message, int code = errno);

    const std::string& message() const { return message_; }
    int code() const { return code_; }

    /// Puts what was being done in front of the message.
    Error in(const std::string& step) const { return Error(step + ": " + message_, code_); }

  private:
    std::string message_;
    int code_;
};

template <typename T> using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

template <typename... Args>
tl::unexpected<Error> failf(fmt::format_string<Args...> format, Args&&... args) {
    return fail(Error(fmt::format(format, std::forward<Args>(args)...)));
}

} // namespace shadowmon

/// Leaves the function with the error of `status` if it holds one.
#define SM_TRY(status)                                                                             \
    do {                                                                                           \
        auto&& sm_try_ = (status);                                                                 \
        if (!sm_try_)                                                                              \
            return ::tl::unexpected(sm_try_.error());                                              \
    } while (0)
