// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/hooks_command.h"

#include "cli/exit_code.h"

#include <cstdio>
#include <fmt/format.h>
#include <shadowmonitor/escape.h>
#include <spdlog/spdlog.h>

namespace shadowmon {

std::string render_hooks(const HookReply& reply) {
    std::string out;
    if (!reply.hooks.empty())
        out += fmt::format("{:>5} {:<7} {:<5} {:>12} {:>12} {:>10} {:>10} {:>8}  {:<18} {}\n", "ID",
                           "STATE", "GATE", "HITS", "RECORDED", "LOST", "LIMITED", "LIMIT/S",
                           "ADDRESS", "NAME");
    for (const HookStatus& hook : reply.hooks)
        out += fmt::format(
            "{:>5} {:<7} {:<5} {:>12} {:>12} {:>10} {:>10} {:>8}  {:<18} {}{}\n", hook.id,
            hook.state, hook.gate.empty() ? "-" : hook.gate, hook.hits(), hook.recorded, hook.lost,
            hook.limited, hook.limit ? fmt::to_string(*hook.limit) : "-",
            hook.address ? fmt::format("{:#018x}", hook.address) : "-", escape(hook.name, false),
            hook.note.empty() ? "" : " (" + escape(hook.note, false) + ")");
    for (const std::string& note : reply.notes)
        out += escape(note, false) + "\n";
    return out;
}

int run_hooks(const HooksArguments& arguments) {
    if (arguments.vm <= 0 && arguments.control.empty()) {
        spdlog::error("--vm or --control is needed: which trace is meant?");
        return exit_usage;
    }
    HookCommand command;
    command.verb = arguments.verb;
    command.hooks = arguments.hooks;
    if (arguments.limit > 0)
        command.limit = arguments.limit;
    auto reply = send_command(
        arguments.control.empty() ? control_path(arguments.vm) : arguments.control, command);
    if (!reply) {
        spdlog::error("{}", reply.error().message());
        return exit_failed;
    }
    if (arguments.format == "json") {
        std::string text = encode(*reply) + "\n";
        std::fwrite(text.data(), 1, text.size(), stdout);
    } else {
        std::string text = render_hooks(*reply);
        std::fwrite(text.data(), 1, text.size(), stdout);
        if (!reply->error.empty())
            spdlog::error("{}", escape(reply->error, false));
    }
    return reply->error.empty() ? exit_done : exit_failed;
}

} // namespace shadowmon
