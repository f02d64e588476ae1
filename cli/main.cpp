// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/command_line.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

int main(int argc, char** argv) {
    using namespace shadowmon;
    auto logger = spdlog::stderr_color_st("shadowmon");
    logger->set_pattern("%n: %^%l%$: %v");
    spdlog::set_default_logger(logger);

    const CommandLine line = parse_command_line(argc, argv);
    spdlog::set_level(line.verbose ? spdlog::level::debug : spdlog::level::info);
    switch (line.command) {
    case CommandLine::Command::trace:
        return run_trace(line.trace);
    case CommandLine::Command::explain:
        return run_explain(line.explain);
    case CommandLine::Command::hooks:
        return run_hooks(line.hooks);
    case CommandLine::Command::doctor:
        return run_doctor(line.doctor);
    case CommandLine::Command::none:
        break;
    }
    return line.exit_code;
}
