// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace shadowmon {

/// Why a step failed: a sentence that names the step and what was seen, and,
/// where the caller may react to it, the errno of the system call behind it.
class [[nodiscard]] Error {
  public:
    explicit Error(std::string message, int code = 0) : message_(std::move(message)), code_(code) {}

    /// The message followed by the text of errno `code`.
    static Error from_errno(const std::string& message, int code = errno);

    const std::string& message() const { return message_; }
    int code() const { return code_; }

    /// Puts what was being done in front of the message.
    Error in(const std::string& step) const { return Error(step + ": " + message_, code_); }

  private:
    std::string message_;
    int code_;
};

/// An error on its way into any Result.
struct [[nodiscard]] Failure {
    Error error;
};

inline Failure fail(Error error) { return Failure{std::move(error)}; }

/// A T, or why there is none. To take what is not there is a mistake of the program and ends it
/// (std::bad_variant_access), in every build. Nothing in this library throws otherwise.
template <typename T> class [[nodiscard]] Result {
  public:
    Result() = default; ///< a default T
    Result(Failure failure) : state_(std::in_place_index<1>, std::move(failure.error)) {}

    template <typename U = T>
    requires(
        std::is_constructible_v<T, U&&> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
        !std::is_same_v<std::remove_cvref_t<U>, Failure>) explicit(!std::is_convertible_v<U&&, T>)
        Result(U&& value)
        : state_(std::in_place_index<0>, std::forward<U>(value)) {}

    bool has_value() const { return state_.index() == 0; }
    explicit operator bool() const { return has_value(); }

    T& operator*() & { return std::get<0>(state_); }
    const T& operator*() const& { return std::get<0>(state_); }
    T&& operator*() && { return std::get<0>(std::move(state_)); }
    T* operator->() { return std::addressof(std::get<0>(state_)); }
    const T* operator->() const { return std::addressof(std::get<0>(state_)); }

    template <typename U> T value_or(U&& other) const& {
        return has_value() ? **this : static_cast<T>(std::forward<U>(other));
    }

    const Error& error() const { return std::get<1>(state_); }

  private:
    std::variant<T, Error> state_;
};

/// Done, or why not.
template <> class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Failure failure) : error_(std::move(failure.error)) {}

    bool has_value() const { return !error_; }
    explicit operator bool() const { return has_value(); }
    const Error& error() const { return error_.value(); }

  private:
    std::optional<Error> error_;
};
using Status = Result<void>;

} // namespace shadowmon
