// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"
#include "src/vm/unique_fd.h"

#include <chrono>
#include <poll.h>
#include <span>
#include <vector>

namespace shadowmon {

/// Descriptors and a timer behind one descriptor, for an event loop of somebody else's. Owns only
/// what it makes. One thread uses it.
class WaitSet {
  public:
    [[nodiscard]] static Result<WaitSet> make();

    /// Readable when one of the descriptors has what was asked for, or the timer has run out.
    int fd() const { return epoll_.get(); }

    /// The descriptors from now on, each once. One that was closed meanwhile may come again under
    /// the same number.
    Status watch(std::span<const pollfd> fds);

    /// Starts the timer anew.
    Status wake_in(std::chrono::milliseconds time);

  private:
    WaitSet(UniqueFd epoll, UniqueFd timer) : epoll_(std::move(epoll)), timer_(std::move(timer)) {}

    UniqueFd epoll_;
    UniqueFd timer_;
    std::vector<int> watched_;
};

} // namespace shadowmon
