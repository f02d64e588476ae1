// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/test.h"

#include <csignal>
#include <cstdio>
#include <sys/prctl.h>
#include <unistd.h>

namespace {
/// Seconds until a test that hangs ends as failed; an emulated machine is slow.
constexpr unsigned kTimeLimit = 60;

void on_alarm(int) {
    static constexpr char kText[] = "# FAILED: time limit reached, the test hangs\n";
    [[maybe_unused]] ssize_t written = write(STDOUT_FILENO, kText, sizeof kText - 1);
    _exit(shadowmon::kvmtest::kFailed);
}
} // namespace

void shadowmon::kvmtest::set_time_limit(unsigned seconds) { alarm(seconds); }

int main(int argc, char** argv) {
    using namespace shadowmon::kvmtest;
    signal(SIGALRM, on_alarm);
    shadowmon::kvmtest::set_time_limit(kTimeLimit);
    if (argc > 1) {
        // A role must not outlive the test that started it.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return Role::run_from(argc, argv) ? kPassed : kFailed;
    }
    test_main();
    return kPassed;
}
