// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/explain.h>
#include <string>

namespace shadowmon {

struct ExplainArguments {
    int vm = 0;
    std::string place;
};

int run_explain(const ExplainArguments& arguments);

/// What there is at a place, in words and listings.
std::string render_explanation(const Explanation& explanation);

} // namespace shadowmon
