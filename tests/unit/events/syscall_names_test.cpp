// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/syscall_names.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdint>
#include <limits>

namespace shadowmon {
namespace {

TEST(SyscallNames, KnowTheNumbersOfTheSystemHeaders) {
    EXPECT_EQ(syscall_name(SYS_read, false), "read");
    EXPECT_EQ(syscall_name(SYS_execve, false), "execve");
    EXPECT_EQ(syscall_name(SYS_exit_group, false), "exit_group");
    EXPECT_EQ(syscall_name(SYS_openat2, false), "openat2");
}

TEST(SyscallNames, HaveTheir32BitTable) {
    EXPECT_EQ(syscall_name(3, true), "read");
    EXPECT_EQ(syscall_name(11, true), "execve");
    EXPECT_EQ(syscall_name(102, true), "socketcall");
    EXPECT_EQ(syscall_name(0, true), "restart_syscall");
}

TEST(SyscallNames, GiveNumbersWhereThereIsNoName) {
    for (const bool compat : {false, true}) {
        for (const int32_t nr : {-1, 100'000, std::numeric_limits<int32_t>::max(),
                                 std::numeric_limits<int32_t>::min(), 0x40000000})
            EXPECT_EQ(syscall_name(nr, compat), "") << nr;
    }
    EXPECT_EQ(syscall_label(-1, false), "syscall_-1");
    EXPECT_EQ(syscall_label(9999, true), "syscall_9999");
    EXPECT_EQ(syscall_label(0, false), "read");
}

TEST(SyscallNames, CountIsNotACall) {
    for (int32_t nr = 0; nr < 2000; ++nr)
        EXPECT_NE(syscall_name(nr, false), "syscalls") << nr;
}

TEST(ErrnoNames, NameWhatIsAnErrorOnly) {
    EXPECT_EQ(errno_name(-ENOENT), "ENOENT");
    EXPECT_EQ(errno_name(-EAGAIN), "EAGAIN");
    EXPECT_EQ(errno_name(-EHWPOISON), "EHWPOISON");
    EXPECT_EQ(errno_name(0), "");
    EXPECT_EQ(errno_name(ENOENT), "");
    EXPECT_EQ(errno_name(-4095), "");
    EXPECT_EQ(errno_name(-4096), "");
    EXPECT_EQ(errno_name(std::numeric_limits<int64_t>::min()), "");
}

TEST(ErrnoNames, KnowRestartsIfTheKernelsHeadersWereThere) {
    const std::string_view name = errno_name(-512);
    EXPECT_TRUE(name == "ERESTARTSYS" || name.empty()) << name;
}

TEST(ErrnoNames, ErrorsAreTheLast4095Values) {
    EXPECT_TRUE(is_error(-1));
    EXPECT_TRUE(is_error(-4095));
    EXPECT_FALSE(is_error(-4096));
    EXPECT_FALSE(is_error(0));
    EXPECT_FALSE(is_error(std::numeric_limits<int64_t>::min()));
}

} // namespace
} // namespace shadowmon
