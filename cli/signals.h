// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <csignal>

namespace shadowmon {

/// SIGINT, SIGTERM and SIGHUP as something to poll for; SIGPIPE is ignored. Made once,
/// at the start of the program, before there are threads. Puts the mask back at its end.
class Signals {
  public:
    Signals();
    ~Signals();
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;

    int fd() const { return fd_; }

    /// Takes a signal that has come; 0 if none has.
    int take();

    /// While this lives, the signals interrupt system calls instead, and so does a
    /// timer every `seconds`: for a wait that the kernel only ends by EINTR.
    class Interrupting {
      public:
        Interrupting(Signals& signals, unsigned seconds);
        ~Interrupting();
        Interrupting(const Interrupting&) = delete;
        Interrupting& operator=(const Interrupting&) = delete;

      private:
        Signals& signals_;
        struct sigaction old_[4];
    };

  private:
    sigset_t set_;
    sigset_t old_mask_;
    int fd_;
};

} // namespace shadowmon
