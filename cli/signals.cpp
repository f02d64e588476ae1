// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/signals.h"

#include <iterator>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

namespace shadowmon {

namespace {

constexpr int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
constexpr int interrupting_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM};

void do_nothing(int) {}

} // namespace

Signals::Signals() {
    sigemptyset(&set_);
    for (int signal : ending_signals)
        sigaddset(&set_, signal);
    ::pthread_sigmask(SIG_BLOCK, &set_, &old_mask_);
    fd_ = ::signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK);
    // A reader that has gone is told by EPIPE, so that the trace can end cleanly.
    ::signal(SIGPIPE, SIG_IGN);
}

Signals::~Signals() {
    ::close(fd_);
    ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

int Signals::take() {
    signalfd_siginfo info;
    if (::read(fd_, &info, sizeof(info)) != sizeof(info))
        return 0;
    return static_cast<int>(info.ssi_signo);
}

Signals::Interrupting::Interrupting(Signals& signals, unsigned seconds) : signals_(signals) {
    struct sigaction action {};
    action.sa_handler = do_nothing; // and no SA_RESTART
    for (size_t i = 0; i < std::size(interrupting_signals); i++)
        ::sigaction(interrupting_signals[i], &action, &old_[i]);
    ::pthread_sigmask(SIG_UNBLOCK, &signals_.set_, nullptr);
    itimerval timer{};
    timer.it_value.tv_sec = timer.it_interval.tv_sec = seconds;
    ::setitimer(ITIMER_REAL, &timer, nullptr);
}

Signals::Interrupting::~Interrupting() {
    itimerval off{};
    ::setitimer(ITIMER_REAL, &off, nullptr);
    ::pthread_sigmask(SIG_BLOCK, &signals_.set_, nullptr);
    for (size_t i = 0; i < std::size(interrupting_signals); i++)
        ::sigaction(interrupting_signals[i], &old_[i], nullptr);
}

} // namespace shadowmon
