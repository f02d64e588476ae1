// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/vm/views.h"

#include <optional>
#include <shadowmonitor/doctor.h>
#include <string>
#include <vector>

#include <sys/types.h>

namespace shadowmon {

/// Where the probe looks; tests put a directory tree and an ioctl of their own there.
struct HostPaths {
    std::string root; ///< put in front of /proc, /sys and /dev
    IoctlFunction ioctl = system_ioctl();
};

/// The public probe_host(), elsewhere.
std::vector<HostCheck> probe_host(std::optional<pid_t> pid, const HostPaths& paths);

} // namespace shadowmon
