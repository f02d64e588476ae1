// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/result.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// How the guest comes from a hook into the compartment.
enum class Gate {
    interrupt, ///< INT 20, for any instruction
    call,      ///< CALL, in place of the 5-byte NOP at which ftrace keeps a function's tracers
};

/// One hook of a running trace. hits = recorded + lost + limited.
struct HookStatus {
    uint32_t id = 0;
    std::string name;     ///< as the user named it, or the monitor that it belongs to
    uint64_t address = 0; ///< 0 as long as it is pending
    std::string gate;     ///< "int20" or "call"; empty as long as it is pending
    /// "on", "off", "retired", or "pending": its module is not loaded; "gone" of one that was just
    /// removed.
    std::string state;
    std::string note; ///< why it is retired or pending
    uint64_t recorded = 0;
    uint64_t lost = 0;             ///< no room in a ring
    uint64_t limited = 0;          ///< above its limit
    std::optional<uint64_t> limit; ///< events per second

    uint64_t hits() const { return recorded + lost + limited; }
};

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

/// The answer: the hooks that the command was about, and what else the user should know.
struct HookReply {
    std::string error; ///< empty: done
    std::vector<HookStatus> hooks;
    std::vector<std::string> notes;
    /// Host TSC ticks that the guest's vCPUs stood still for the change, all its batches together.
    uint64_t pause_tsc = 0;
};

/// One line of JSON, without the line's end: what `shadowmon hooks --format json` prints.
std::string encode(const HookReply& reply);

/// Where the trace of a VM listens for `shadowmon hooks` by default.
std::string control_path(int vmm_pid);

/// Sends one command to the trace that listens at `path`, which mostly is another process's, and
/// waits for its answer, a minute at most. Blocks; any thread.
Result<HookReply> send_command(const std::string& path, const HookCommand& command);

} // namespace shadowmon
