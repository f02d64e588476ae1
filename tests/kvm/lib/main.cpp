// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/test.h"

#include <csignal>
#include <cstdio>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {
/// Seconds until a test that hangs ends as failed; an emulated machine is slow.
constexpr unsigned time_limit = 60;

/// Where each thread of the test is in the kernel.
constexpr char tell_stacks[] = "for thread in /proc/$PPID/task/*; do"
                               " echo \"# thread ${thread##*/} ($(cat $thread/comm)):\";"
                               " sed 's/^/#   /' $thread/syscall $thread/stack; done";

void on_alarm(int) {
    static constexpr char message[] = "# FAILED: time limit reached, the test hangs\n";
    [[maybe_unused]] ssize_t written = write(STDOUT_FILENO, message, sizeof message - 1);
    const pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", tell_stacks, nullptr);
        _exit(127);
    }
    waitpid(child, nullptr, 0);
    _exit(shadowmon::kvmtest::status_failed);
}
} // namespace

void shadowmon::kvmtest::set_time_limit(unsigned seconds) { alarm(seconds); }

int main(int argc, char** argv) {
    using namespace shadowmon::kvmtest;
    signal(SIGALRM, on_alarm);
    shadowmon::kvmtest::set_time_limit(time_limit);
    if (argc > 1) {
        // A role must not outlive the test that started it.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return Role::run_from(argc, argv) ? status_passed : status_failed;
    }
    test_main();
    return status_passed;
}
