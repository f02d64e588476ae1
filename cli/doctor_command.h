// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <CLI/CLI.hpp>
#include <shadowmonitor/doctor.h>
#include <string>
#include <vector>

namespace shadowmon {

struct DoctorArguments {
    int vm = 0; ///< 0: none
};

CLI::App* add_doctor_command(CLI::App& app, DoctorArguments& arguments);
int run_doctor(const DoctorArguments& arguments);

/// The checks as `shadowmon doctor` prints them.
std::string render_checks(const std::vector<HostCheck>& checks);

} // namespace shadowmon
