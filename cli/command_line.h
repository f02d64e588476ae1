// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "cli/doctor_command.h"
#include "cli/exit_code.h"
#include "cli/explain_command.h"
#include "cli/hooks_command.h"
#include "cli/trace_command.h"

namespace shadowmon {

/// What the user asks for: one command, whose arguments are filled in.
struct CommandLine {
    enum class Command { none, trace, explain, hooks, doctor };
    Command command = Command::none;
    int exit_code = exit_usage; ///< of no command: help was printed, or what is wrong
    bool verbose = false;
    TraceArguments trace;
    ExplainArguments explain;
    HooksArguments hooks;
    DoctorArguments doctor;
};

CommandLine parse_command_line(int argc, const char* const* argv);

} // namespace shadowmon
