// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/events.h"
#include "src/events/syscall_names.h"
#include "src/output/output.h"
#include <shadowmonitor/event.h>

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string>
#include <string_view>
#include <unistd.h>

namespace shadowmon::test {

inline Comm to_comm(std::string_view text) {
    Comm comm;
    std::copy_n(text.begin(), std::min(text.size(), comm.bytes.size()), comm.bytes.begin());
    return comm;
}

/// 2026-11-23T09:55:01.123456789Z
inline constexpr uint64_t kTime = 1'795'427'701'123'456'789;

inline Event base_event() {
    Event event;
    event.tsc = 18'446'744'073'709'551'615u;
    event.realtime_ns = kTime;
    event.seq = 17;
    event.cr3 = 0x1000;
    event.ring = 3;
    event.cpu = 1;
    event.process = {Gva(0xffff8881002b8000), 413, 412, 1, 1000, to_comm("bash")};
    return event;
}

inline Syscall call(int32_t nr, bool compat = false) {
    return {nr, compat, syscall_name(nr, compat)};
}

inline Event enter_event() {
    Event event = base_event();
    event.body = SyscallEnter{call(0), {3, 0x7ffd5a3c2e10, 4096, 0, 1048575, ~uint64_t{0}}};
    return event;
}

inline Event exit_event(int64_t ret) {
    Event event = base_event();
    event.body = SyscallExit{call(257), ret, errno_name(ret)};
    return event;
}

inline Event switch_event() {
    Event event = base_event();
    event.body = Switch{1, Gva(0xffff888100aa0000), 200, 199, to_comm("sshd")};
    return event;
}

inline Event lost_event() {
    Event event = base_event();
    Lost lost;
    lost.by_type[SM_EVENT_SYSCALL_ENTER] = 8;
    lost.by_type[SM_EVENT_SWITCH] = 4;
    event.body = lost;
    return event;
}

inline Event unknown_event() {
    Event event = base_event();
    event.body = UnknownHook{Gva(0xffffffff81000002), Gva(0xffffc90000003f00)};
    return event;
}

/// A file without a name, to write to and to read back.
class TestFile {
  public:
    TestFile() {
        char name[] = "/tmp/shadowmon_test_XXXXXX";
        fd_ = mkostemp(name, O_CLOEXEC);
        unlink(name);
    }
    ~TestFile() { close(fd_); }
    TestFile(const TestFile&) = delete;
    TestFile& operator=(const TestFile&) = delete;

    int fd() const { return fd_; }

    std::string read() const {
        std::string text;
        char part[65536];
        for (ssize_t n; (n = pread(fd_, part, sizeof(part), static_cast<off_t>(text.size()))) > 0;)
            text.append(part, static_cast<size_t>(n));
        return text;
    }

  private:
    int fd_;
};

/// What an output makes of one event.
template <class Output> std::string written(const Event& event) {
    TestFile file;
    Output output(Sink(file.fd(), "file"));
    output.event(event);
    EXPECT_TRUE(output.flush());
    return file.read();
}

} // namespace shadowmon::test
