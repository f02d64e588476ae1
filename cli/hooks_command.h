// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/hooks.h>
#include <string>
#include <vector>

namespace shadowmon {

struct HooksArguments {
    HookCommand::Verb verb = HookCommand::Verb::list;
    int vm = 0;
    std::string control; ///< path of the trace's socket; empty: the VM's own
    std::string format = "text";
    std::vector<std::string> hooks;
    uint64_t limit = 0; ///< events per second, 0: none
};

int run_hooks(const HooksArguments& arguments);

/// A table, one hook a line, then the notes.
std::string render_hooks(const HookReply& reply);

} // namespace shadowmon
