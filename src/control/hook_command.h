// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"

#include <shadowmonitor/hooks.h>
#include <string>

namespace shadowmon {

const char* verb_name(HookCommand::Verb verb);

/// One line of JSON each, without the line's end, as is encode(HookReply). Parsing checks every
/// field and bound.
std::string encode(const HookCommand& command);
Result<HookCommand> parse_command(const std::string& line);
Result<HookReply> parse_reply(const std::string& line);

} // namespace shadowmon
