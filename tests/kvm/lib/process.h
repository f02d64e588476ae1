// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/kvm/lib/fd.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowmon::kvmtest {

/// What processes of one test say to each other.
struct Message {
    uint64_t what = 0;
    uint64_t values[7] = {};
};

/// One end of a message channel.
class Channel {
  public:
    Channel() = default;
    explicit Channel(Fd fd) : fd_(std::move(fd)) {}
    void send(const Message& message) const;
    /// False when the other end is gone.
    bool try_receive(Message& message) const;
    /// Fatal when the other end is gone or says something else.
    Message receive(uint64_t what) const;
    int fd() const { return fd_.get(); }

  private:
    Fd fd_;
};

/// A process of its own with a fresh address space: this program started again to play a role
/// (see Role), typically that of the views fd's owner. Killed and reaped by the destructor.
class Child {
  public:
    explicit Child(std::string_view role, const std::vector<uint64_t>& args = {});
    Child(const Child&) = delete;
    ~Child();

    int pid() const { return pid_; }
    const Channel& channel() const { return channel_; }
    void kill();
    /// Waits for the end; fatal unless it exited with 0 (or was killed, when that was asked for).
    void must_exit();
    void reap_killed();

  private:
    int wait_status();

    int pid_ = -1;
    Channel channel_;
};

/// Names a function that a Child may run: define one at namespace scope.
class Role {
  public:
    using Function = void (*)(const Channel& channel, std::span<const uint64_t> args);
    Role(const char* name, Function function);
    /// For main: runs the role if the command line asks for one.
    static bool run_from(int argc, char** argv);

  private:
    /// Made before it is asked for: roles of several files are constructed in any order.
    static Role*& first();

    const char* name_;
    Function function_;
    Role* next_;
};

} // namespace shadowmon::kvmtest
