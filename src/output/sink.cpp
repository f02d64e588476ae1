// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/sink.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#include <utility>

namespace shadowmon {

Sink::Sink(int fd, std::string name, size_t capacity)
    : fd_(fd), name_(std::move(name)), capacity_(std::max(capacity, max_record)),
      buffer_(std::make_unique<char[]>(capacity_)) {}

Sink::Sink(Sink&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), owned_(std::exchange(other.owned_, false)),
      name_(std::move(other.name_)), capacity_(std::exchange(other.capacity_, 0)),
      buffer_(std::move(other.buffer_)), used_(std::exchange(other.used_, 0)),
      written_(other.written_), discarded_(other.discarded_), failed_(other.failed_),
      error_(std::exchange(other.error_, std::nullopt)) {}

Sink::~Sink() { static_cast<void>(close()); }

Result<Sink> Sink::open(const std::string& path) {
    if (path == "-")
        return Sink(STDOUT_FILENO, "standard output");
    // A trace holds what the guest's programs do: for the user's eyes only.
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0)
        return fail(Error::from_errno(fmt::format("cannot open {} for writing", path)));
    Sink sink(fd, path);
    sink.owned_ = true;
    return sink;
}

void Sink::append(std::string_view text) {
    while (!text.empty()) {
        const size_t part = std::min(text.size(), max_record);
        std::memcpy(reserve(part), text.data(), part);
        commit(part);
        text.remove_prefix(part);
    }
}

void Sink::make_room() { write_out(); }

void Sink::write_out() {
    size_t done = 0;
    while (done < used_ && !failed_) {
        const ssize_t n = ::write(fd_, &buffer_[done], used_ - done);
        if (n > 0) {
            done += static_cast<size_t>(n);
        } else if (n == 0) {
            fail_with(EIO);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            // Somebody who shares the descriptor has made it non-blocking.
            pollfd wait{fd_, POLLOUT, 0};
            ::poll(&wait, 1, -1);
        } else if (errno != EINTR) {
            fail_with(errno);
        }
    }
    written_ += done;
    discarded_ += used_ - done;
    used_ = 0;
}

void Sink::fail_with(int code) {
    failed_ = true;
    error_ = Error::from_errno(fmt::format("cannot write to {}", name_), code);
}

Status Sink::take_error() {
    if (error_)
        return fail(*std::exchange(error_, std::nullopt));
    return {};
}

Status Sink::flush() {
    write_out();
    return take_error();
}

Status Sink::close() {
    write_out();
    // Some file systems tell of a full disk only here.
    if (const int fd = std::exchange(fd_, -1);
        owned_ && fd >= 0 && ::close(fd) < 0 && !failed_ && errno != EINTR)
        fail_with(errno);
    return take_error();
}

} // namespace shadowmon
