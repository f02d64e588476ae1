// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

struct TraceArguments {
    int vm = 0;
    std::optional<std::string> monitor; ///< nothing: all, or none if there are hooks
    std::vector<std::string> hooks;
    uint64_t hook_limit = 0; ///< events per second, 0: none
    std::string gate = "auto";
    std::string place = "auto";
    std::string control; ///< path of the socket for `shadowmon hooks`; empty: the VM's own
    bool no_control = false;
    std::string format = "text";
    std::string output = "-";
    std::string on_full = "drop";
    uint64_t ring_size = uint64_t{1} << 20;
    double duration = 0; ///< seconds, 0: until the VM ends or a signal
    bool until_exit = false;
    bool summary = false;
    int ready_fd = -1;
    std::string ready_file;
    std::string system_map;
    std::string vmlinux;
};

int run_trace(const TraceArguments& arguments);

} // namespace shadowmon
