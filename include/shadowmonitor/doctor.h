// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>
#include <vector>

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

/// Looks at this host for everything that watching a VM needs, changing nothing. With `vmm_pid`,
/// also at that VMM. What cannot be found out is a check of its own, never an error. Any thread.
std::vector<HostCheck> probe_host(std::optional<int> vmm_pid = std::nullopt);

/// True if nothing that is required is missing or unknown.
bool host_is_ready(const std::vector<HostCheck>& checks);

} // namespace shadowmon
