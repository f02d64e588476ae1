// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/doctor_command.h"

#include "cli/exit_code.h"

#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <optional>

namespace shadowmon {

namespace {

const char* word(HostCheck::State state) {
    switch (state) {
    case HostCheck::State::ok:
        return "ok";
    case HostCheck::State::missing:
        return "MISSING";
    case HostCheck::State::optional:
        return "(no)";
    case HostCheck::State::unknown:
        return "unknown";
    }
    return "";
}

} // namespace

std::string render_checks(const std::vector<HostCheck>& checks) {
    std::string out;
    size_t width = 0;
    for (const HostCheck& check : checks)
        width = std::max(width, check.name.size());
    std::string group;
    for (const HostCheck& check : checks) {
        if (check.group != group) {
            out += fmt::format("{}{}\n", group.empty() ? "" : "\n", check.group);
            group = check.group;
        }
        out +=
            fmt::format("  {:<8} {:<{}}  {}\n", word(check.state), check.name, width, check.detail);
        if (!check.advice.empty())
            out += fmt::format("  {:<8} {:<{}}  -> {}\n", "", "", width, check.advice);
    }
    out += host_is_ready(checks) ? "\nThis host can watch VMs.\n"
                                 : "\nThis host cannot watch VMs yet: see the lines with MISSING "
                                   "or unknown.\n";
    return out;
}

int run_doctor(const DoctorArguments& arguments) {
    auto checks = probe_host(arguments.vm > 0 ? std::optional(arguments.vm) : std::nullopt);
    std::string text = render_checks(checks);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return host_is_ready(checks) ? exit_done : exit_host_lacks;
}

} // namespace shadowmon
