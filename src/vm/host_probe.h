// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/vm/views.h"

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace shadowmon {

/// One line of `shadowmon doctor`.
struct HostCheck {
    enum class State {
        ok,
        missing,  ///< required, and not there
        optional, ///< not there, and not needed
        unknown,  ///< could not be found out
    };
    std::string group; ///< "CPU", "KVM", "Permissions", "VM"
    std::string name;
    State state;
    std::string detail; ///< what was seen
    std::string advice; ///< what to do about it; empty if nothing
};

/// Where the probe looks; tests put a directory tree and an ioctl of their own there.
struct HostPaths {
    std::string root; ///< put in front of /proc, /sys and /dev
    IoctlFunction ioctl = system_ioctl();
};

/// Looks at this host for everything that watching a VM needs, changing nothing.
/// With `pid`, also at that VMM.
std::vector<HostCheck> probe_host(std::optional<pid_t> pid, const HostPaths& paths = {});

/// True if nothing that is required is missing or unknown.
bool host_is_ready(const std::vector<HostCheck>& checks);

} // namespace shadowmon
