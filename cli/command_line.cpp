// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/command_line.h"

#include "cli/exit_code.h"

#include <CLI/CLI.hpp>

namespace shadowmon {

namespace {

constexpr const char* about =
    "ShadowMonitor watches a running KVM virtual machine from inside it, without trusting it\n"
    "and without a VM exit per event.";

constexpr const char* footer = R"(Examples:
  What has this host, what does it lack?
      shadowmon doctor
  Watch every system call and process switch of a VM, until Ctrl-C:
      shadowmon trace --vm $(pgrep -f qemu-system) --monitor syscalls,switches
  Watch who deletes files, and what comes of it:
      shadowmon trace --vm 4711 --hook do_unlinkat --hook do_unlinkat%return
  Look at the hooks of a running trace, add one, take it out again:
      shadowmon hooks list --vm 4711
      shadowmon hooks add --vm 4711 --limit 1000 vfs_read
      shadowmon hooks remove --vm 4711 vfs_read
  Ten seconds of system calls as JSON lines, nothing lost, with a summary:
      shadowmon trace --vm 4711 --monitor syscalls --on-full block \
          --format json --output calls.jsonl --duration 10 --summary

Exit codes:
  0  done: ended as asked (Ctrl-C, --duration) or because the VM was powered off
  1  failed: the message says at which step; the VM runs on as it was
  2  wrong usage
  3  the output could not be written (disk full, reader gone); the trace is cut there
  4  the guest's kernel panicked or was reset; the trace is complete up to there
  5  doctor: something that is required is missing

`shadowmon COMMAND --help` says more.)";

constexpr const char* trace_footer = R"(What comes out, one line per event (text):
    09:55:01.123456789 001 bash/412             enter  read(3, 0x7ffd5a3c2e10, 4096, 0, 0, 0)
  time (UTC), CPU, process/thread id, kind. With --format json each line is one object.
  The output ends with a summary: events by kind, lost ones, busiest processes and calls.

What --monitor takes:
  syscalls           every system call, 32-bit ones too, where it begins and where it returns
  switches           every process switch
  irq                every interrupt of a device or of the system (timers, calls of other CPUs),
                     where it begins and ends: vector, handler, interrupted process, duration

What --hook takes (again and again, also with `shadowmon hooks add` on the running trace):
  vfs_read           a function, where its arguments are still in their registers
  vfs_read%return    where it returns, with the value
  do_exit+0x2a       the instruction at an offset; 0xffffffff81234567: at an address
  ext4:ext4_sync_fs  of a module, also of one that is loaded later or again: until then the hook is
                     pending; a plain name is looked for in the kernel first
  'nf_*'             all functions of a name like that, of modules too; 'ext4:*' of one module
  `shadowmon explain` says what is at a place and how it can be hooked.

When a ring is full (the host reads too slowly):
  --on-full drop   the guest goes on; what was lost is counted and reported in the output
  --on-full block  the guest waits until there is room; nothing is lost

Ctrl-C (SIGINT, SIGTERM) detaches cleanly: the guest gets all its bytes back and runs on.
So does every failure, and the death of this program in whatever way.)";

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

CLI::App* add_trace_command(CLI::App& app, TraceArguments& arguments) {
    CLI::App* command =
        app.add_subcommand("trace", "Watch a running VM and write out what it does");
    command->add_option("--vm", arguments.vm, "Process id of the VMM (pgrep -a qemu)")
        ->required()
        ->check(CLI::PositiveNumber)
        ->type_name("PID");
    command
        ->add_option("--monitor", arguments.monitor,
                     "What to watch, separated by commas: syscalls, switches, irq (default: "
                     "syscalls,switches; none if there is a --hook)")
        ->type_name("LIST")
        ->expected(1);
    command
        ->add_option("--hook", arguments.hooks,
                     "Hook a place in the guest's kernel; may be given again")
        ->type_name("PLACE")
        ->allow_extra_args(false);
    command
        ->add_option("--hook-limit", arguments.hook_limit,
                     "Record so many events per second and --hook at most")
        ->check(CLI::PositiveNumber)
        ->type_name("N");
    command
        ->add_option("--gate", arguments.gate,
                     "How hooks enter the monitor: int20, or auto (by CALL where the kernel has a "
                     "NOP for it, which is cheaper)")
        ->check(CLI::IsMember({"auto", "int20"}))
        ->capture_default_str()
        ->type_name("GATE");
    command
        ->add_option("--place", arguments.place,
                     "Where the monitor's addresses in the guest come from: host (found free by "
                     "the host), guest (reserved and offered by the module shadowmon_guest in the "
                     "guest), or auto")
        ->check(CLI::IsMember({"auto", "host", "guest"}))
        ->capture_default_str()
        ->type_name("WHO");
    command
        ->add_option("--control", arguments.control,
                     "Socket on which `shadowmon hooks` finds this trace")
        ->type_name("PATH");
    command->add_flag("--no-control", arguments.no_control, "Let nobody change the hooks");
    command->add_option("--format", arguments.format, "text, or json (one object per line)")
        ->check(CLI::IsMember({"text", "json"}))
        ->capture_default_str()
        ->type_name("FORMAT");
    command->add_option("-o,--output", arguments.output, "File to write to; - is standard output")
        ->capture_default_str()
        ->type_name("FILE");
    command
        ->add_option("--on-full", arguments.on_full,
                     "When a ring is full: drop, or block the guest")
        ->check(CLI::IsMember({"drop", "block"}))
        ->capture_default_str()
        ->type_name("MODE");
    command
        ->add_option("--ring-size", arguments.ring_size,
                     "Bytes per event ring, 4K to 4M; there are two rings per vCPU")
        ->transform(CLI::AsSizeValue(false))
        ->capture_default_str()
        ->type_name("BYTES");
    command->add_option("--duration", arguments.duration, "End after so many seconds")
        ->type_name("SECONDS");
    command->add_flag("--until-exit", arguments.until_exit,
                      "Go on until the VM ends or a signal comes (the default)");
    command->add_flag("--summary", arguments.summary,
                      "Print the summary on standard error as well");
    command
        ->add_option("--ready-fd", arguments.ready_fd,
                     "Write a line to this descriptor once events flow, for scripts")
        ->type_name("FD");
    command
        ->add_option("--ready-file", arguments.ready_file,
                     "Make this file once events flow, for scripts")
        ->type_name("PATH");
    auto* system_map =
        command
            ->add_option("--system-map", arguments.system_map,
                         "System.map of the guest's kernel: checked against the kernel's own "
                         "symbols, used if it carries none")
            ->type_name("FILE");
    command
        ->add_option("--vmlinux", arguments.vmlinux,
                     "The same from a vmlinux with its symbol table")
        ->type_name("FILE")
        ->excludes(system_map);
    command->footer(trace_footer);
    command->fallthrough();
    return command;
}

CLI::App* add_explain_command(CLI::App& app, ExplainArguments& arguments) {
    CLI::App* command = app.add_subcommand(
        "explain", "Tell what is at a place in a VM's kernel, and how it could be hooked");
    command->add_option("--vm", arguments.vm, "Process id of the VMM (pgrep -a qemu)")
        ->required()
        ->check(CLI::PositiveNumber)
        ->type_name("PID");
    command
        ->add_option("PLACE", arguments.place,
                     "[MODULE:]FUNCTION, [MODULE:]FUNCTION+OFFSET or 0xADDRESS")
        ->required();
    command->footer("Changes nothing in the VM. Exit code 0 if the place can be hooked, 1 if not.");
    return command;
}

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

CLI::App* add_doctor_command(CLI::App& app, DoctorArguments& arguments) {
    CLI::App* command = app.add_subcommand(
        "doctor", "Tell what this host has and lacks for watching VMs, and what to do about it");
    command->add_option("--vm", arguments.vm, "Look at the VM of this VMM process too")
        ->check(CLI::PositiveNumber)
        ->type_name("PID");
    command->footer("Exit code 0 if all that is required is there, 5 if not. Changes nothing.");
    return command;
}

} // namespace

CommandLine parse_command_line(int argc, const char* const* argv) {
    CommandLine line;
    CLI::App app(about, "shadowmon");
    app.footer(footer);
    app.set_version_flag("--version", SM_VERSION_TEXT);
    app.require_subcommand(1);
    app.add_flag("-v,--verbose", line.verbose, "Tell each step of attaching on standard error");
    const std::pair<const CLI::App*, CommandLine::Command> commands[] = {
        {add_trace_command(app, line.trace), CommandLine::Command::trace},
        {add_explain_command(app, line.explain), CommandLine::Command::explain},
        {add_hooks_command(app, line.hooks), CommandLine::Command::hooks},
        {add_doctor_command(app, line.doctor), CommandLine::Command::doctor},
    };
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        line.exit_code = app.exit(error) == 0 ? exit_done : exit_usage;
        return line;
    }
    for (const auto& [command, which] : commands)
        if (command->parsed())
            line.command = which;
    return line;
}

} // namespace shadowmon
