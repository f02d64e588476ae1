// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// What a user asks of the hooks of a running trace, as it goes over the control socket.
struct HookCommand {
    enum class Verb { list, add, remove, enable, disable };

    Verb verb = Verb::list;
    /// add: what to hook, as --hook has it. The others: ids, or names with wildcards; empty means
    /// all for list, and is an error otherwise.
    std::vector<std::string> hooks;
    /// add: events per second at most; nothing: no limit.
    std::optional<uint64_t> limit;

    /// Bounds of what one command may carry, whoever sends it.
    static constexpr size_t max_hooks = 4096;
    static constexpr size_t max_name = 256;
};

/// One hook of a running trace. hits = recorded + lost + limited.
struct HookStatus {
    uint32_t id = 0;
    std::string name; ///< as the user named it, or the monitor that it belongs to
    uint64_t address = 0;
    std::string gate;  ///< "int20" or "call"
    std::string state; ///< "on", "off" or "retired"
    std::string note;  ///< why it is retired
    uint64_t recorded = 0;
    uint64_t lost = 0;             ///< no room in a ring
    uint64_t limited = 0;          ///< above its limit
    std::optional<uint64_t> limit; ///< events per second

    uint64_t hits() const { return recorded + lost + limited; }
};

/// The answer: the hooks that the command was about, and what else the user should know.
struct HookReply {
    std::string error; ///< empty: done
    std::vector<HookStatus> hooks;
    std::vector<std::string> notes;
};

const char* verb_name(HookCommand::Verb verb);

/// One line of JSON each, without the line's end. Parsing checks every field and bound.
std::string encode(const HookCommand& command);
std::string encode(const HookReply& reply);
Result<HookCommand> parse_command(const std::string& line);
Result<HookReply> parse_reply(const std::string& line);

} // namespace shadowmon
