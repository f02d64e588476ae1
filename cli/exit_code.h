// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

namespace shadowmon {

/// What `shadowmon` returns to the shell; --help documents them.
enum ExitCode : int {
    exit_done = 0,
    exit_failed = 1,
    exit_usage = 2,
    exit_output = 3,
    exit_guest_died = 4,
    exit_host_lacks = 5,
};

} // namespace shadowmon
