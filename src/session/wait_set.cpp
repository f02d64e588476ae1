// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/wait_set.h"

#include <algorithm>
#include <cerrno>
#include <sys/epoll.h>
#include <sys/timerfd.h>

namespace shadowmon {

Result<WaitSet> WaitSet::make() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll.valid())
        return fail(Error::from_errno("make a descriptor to wait for"));
    UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer.valid())
        return fail(Error::from_errno("make a timer"));
    epoll_event event{};
    event.events = EPOLLIN;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, timer.get(), &event) != 0)
        return fail(Error::from_errno("wait for a timer"));
    return WaitSet(std::move(epoll), std::move(timer));
}

Status WaitSet::watch(std::span<const pollfd> fds) {
    static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT);
    for (int old : watched_) {
        bool stays =
            std::any_of(fds.begin(), fds.end(), [old](const pollfd& one) { return one.fd == old; });
        // One that was closed is out of the set already.
        if (!stays)
            (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, old, nullptr);
    }
    watched_.clear();
    for (const pollfd& one : fds) {
        epoll_event event{};
        event.events = static_cast<uint32_t>(one.events);
        event.data.fd = one.fd;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, one.fd, &event) != 0 &&
            (errno != ENOENT || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, one.fd, &event) != 0))
            return fail(Error::from_errno(fmt::format("wait for descriptor {}", one.fd)));
        watched_.push_back(one.fd);
    }
    return {};
}

Status WaitSet::wake_in(std::chrono::milliseconds time) {
    using namespace std::chrono;
    // 0 would stop the timer.
    auto span = std::max(duration_cast<nanoseconds>(time), nanoseconds(1));
    itimerspec spec{};
    spec.it_value.tv_sec = duration_cast<seconds>(span).count();
    spec.it_value.tv_nsec = (span % seconds(1)).count();
    // Setting it anew also takes back that it has run out.
    if (::timerfd_settime(timer_.get(), 0, &spec, nullptr) != 0)
        return fail(Error::from_errno("set a timer"));
    return {};
}

} // namespace shadowmon
