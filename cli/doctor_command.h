// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/doctor.h>
#include <string>
#include <vector>

namespace shadowmon {

struct DoctorArguments {
    int vm = 0; ///< 0: none
};

int run_doctor(const DoctorArguments& arguments);

/// The checks as `shadowmon doctor` prints them.
std::string render_checks(const std::vector<HostCheck>& checks);

} // namespace shadowmon
