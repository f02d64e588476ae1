// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/doctor_command.h"
#include "cli/exit_code.h"
#include "cli/explain_command.h"
#include "cli/hooks_command.h"
#include "cli/trace_command.h"

#include <CLI/CLI.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

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

} // namespace

int main(int argc, char** argv) {
    using namespace shadowmon;
    auto logger = spdlog::stderr_color_st("shadowmon");
    logger->set_pattern("%n: %^%l%$: %v");
    spdlog::set_default_logger(logger);

    CLI::App app(about, "shadowmon");
    app.footer(footer);
    app.set_version_flag("--version", SM_VERSION_TEXT);
    app.require_subcommand(1);
    bool verbose = false;
    app.add_flag("-v,--verbose", verbose, "Tell each step of attaching on standard error");

    TraceArguments trace;
    CLI::App* trace_command = add_trace_command(app, trace);
    ExplainArguments explain;
    CLI::App* explain_command = add_explain_command(app, explain);
    HooksArguments hooks;
    CLI::App* hooks_command = add_hooks_command(app, hooks);
    DoctorArguments doctor;
    CLI::App* doctor_command = add_doctor_command(app, doctor);

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? exit_done : exit_usage;
    }
    spdlog::set_level(verbose ? spdlog::level::debug : spdlog::level::info);
    if (trace_command->parsed())
        return run_trace(trace);
    if (explain_command->parsed())
        return run_explain(explain);
    if (hooks_command->parsed())
        return run_hooks(hooks);
    if (doctor_command->parsed())
        return run_doctor(doctor);
    return exit_usage;
}
