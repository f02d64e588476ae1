// SPDX-License-Identifier: GPL-2.0-or-later
// Finding a VM by pid: what is no VMM is refused with a sentence that helps.
#include "src/vm/vm_process.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace shadowmon {
namespace {

bool contains(const Error& error, const char* text) {
    return error.message().find(text) != std::string::npos;
}

class FdDir : public testing::Test {
  protected:
    FdDir() {
        std::string name = testing::TempDir() + "fdXXXXXX";
        path_ = mkdtemp(name.data());
    }
    ~FdDir() override { std::filesystem::remove_all(path_); }

    void link(const char* number, const char* target) {
        std::filesystem::create_symlink(target, path_ / number);
    }
    std::filesystem::path path_;
};

TEST_F(FdDir, FindsOnlyVms) {
    link("0", "/dev/null");
    link("9", "anon_inode:kvm-vm");
    link("10", "anon_inode:kvm-vcpu:0");
    link("12", "anon_inode:kvm-vm-not");
    link("3", "anon_inode:kvm-vm");
    link("x4", "anon_inode:kvm-vm");
    auto fds = find_vm_fds(path_);
    ASSERT_TRUE(fds) << fds.error().message();
    EXPECT_EQ(*fds, (std::vector<int>{3, 9}));
}

TEST_F(FdDir, MissingDirectoryGivesErrno) {
    auto fds = find_vm_fds(path_ / "absent");
    ASSERT_FALSE(fds);
    EXPECT_EQ(fds.error().code(), ENOENT);
}

TEST(VmProcess, NoSuchProcess) {
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    auto vm = VmProcess::open(child);
    ASSERT_FALSE(vm);
    EXPECT_EQ(vm.error().code(), ESRCH);
    EXPECT_TRUE(contains(vm.error(), "no process")) << vm.error().message();
}

TEST(VmProcess, NonsensePid) {
    for (pid_t pid : {0, -1}) {
        auto vm = VmProcess::open(pid);
        ASSERT_FALSE(vm);
        EXPECT_TRUE(contains(vm.error(), "not a process id"));
    }
}

TEST(VmProcess, NotAVmm) {
    auto vm = VmProcess::open(getpid());
    ASSERT_FALSE(vm);
    EXPECT_TRUE(contains(vm.error(), "is not a VMM")) << vm.error().message();
}

TEST(VmProcess, ThreadOfAProcess) {
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    pid_t tid = 0;
    int started[2];
    ASSERT_EQ(pipe(started), 0);
    std::thread thread([&] {
        tid = static_cast<pid_t>(syscall(SYS_gettid));
        char c = 0;
        EXPECT_EQ(write(started[1], &c, 1), 1);
        EXPECT_EQ(read(pipe_fds[0], &c, 1), 1);
    });
    char c;
    ASSERT_EQ(read(started[0], &c, 1), 1);
    auto vm = VmProcess::open(tid);
    ASSERT_FALSE(vm);
    EXPECT_TRUE(contains(vm.error(), "is a thread")) << vm.error().message();
    ASSERT_EQ(write(pipe_fds[1], &c, 1), 1);
    thread.join();
}

// A process of another user: root first becomes an ordinary user in a child.
TEST(VmProcess, NotOurs) {
    if (geteuid() != 0)
        GTEST_SKIP() << "needs root to become another user";
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        bool good = setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0;
        auto vm = VmProcess::open(parent);
        good = good && !vm && vm.error().code() == EPERM &&
               contains(vm.error(), "not ours to touch") && contains(vm.error(), "of user 0");
        _exit(good ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

} // namespace
} // namespace shadowmon
