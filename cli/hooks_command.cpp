// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/hooks_command.h"

#include "cli/exit_code.h"

#include <cstdio>
#include <fmt/format.h>
#include <shadowmonitor/escape.h>
#include <spdlog/spdlog.h>

namespace shadowmon {

namespace {

constexpr const char* hooks_footer =
    R"(Examples, with a trace of that VM running in another terminal:
  shadowmon hooks list --vm 4711
  shadowmon hooks add --vm 4711 --limit 1000 vfs_read 'do_exit+0x2a' 'nf_*'
  shadowmon hooks disable --vm 4711 'nf_*'
  shadowmon hooks remove --vm 4711 12 vfs_read

A hook is named as it was added, by its id, or by a pattern with * and ?. One that is pending waits
for its module to be loaded.
hits = recorded + lost (no room in a ring) + limited (above its limit).)";

struct VerbHelp {
    HookCommand::Verb verb;
    const char* name;
    const char* text;
};
constexpr VerbHelp verb_help[] = {
    {HookCommand::Verb::list, "list", "What is hooked, in which way, and how often it was hit"},
    {HookCommand::Verb::list, "stat", "The same as list"},
    {HookCommand::Verb::add, "add", "Hook kernel functions or instructions"},
    {HookCommand::Verb::remove, "remove", "Take hooks out for good"},
    {HookCommand::Verb::disable, "disable",
     "Take hooks out of the guest's code, to be enabled again"},
    {HookCommand::Verb::enable, "enable", "Put hooks back into the guest's code"},
};

} // namespace

CLI::App* add_hooks_command(CLI::App& app, HooksArguments& arguments) {
    CLI::App* command =
        app.add_subcommand("hooks", "Look at and change the hooks of a running trace");
    command->require_subcommand(1);
    command->footer(hooks_footer);
    for (const VerbHelp& help : verb_help) {
        CLI::App* verb = command->add_subcommand(help.name, help.text);
        verb->add_option("--vm", arguments.vm, "Process id of the VMM whose trace is meant")
            ->check(CLI::PositiveNumber)
            ->type_name("PID");
        verb->add_option("--control", arguments.control,
                         "Socket of the trace, where it was told to listen elsewhere")
            ->type_name("PATH");
        verb->add_option("--format", arguments.format, "text, or json (one object)")
            ->check(CLI::IsMember({"text", "json"}))
            ->capture_default_str()
            ->type_name("FORMAT");
        auto* names = verb->add_option("HOOK", arguments.hooks,
                                       help.verb == HookCommand::Verb::add
                                           ? "FUNCTION, MODULE:FUNCTION, FUNCTION+OFFSET, "
                                             "0xADDRESS or a pattern"
                                           : "Name, id or pattern of hooks that are there");
        if (help.verb != HookCommand::Verb::list)
            names->required();
        if (help.verb == HookCommand::Verb::add)
            verb->add_option("--limit", arguments.limit,
                             "Record so many events per second and hook at most")
                ->check(CLI::PositiveNumber)
                ->type_name("N");
        verb->callback([&arguments, verb_value = help.verb] { arguments.verb = verb_value; });
    }
    return command;
}

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
