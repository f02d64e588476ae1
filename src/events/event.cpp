// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/event.h>

#include "abi/events.h"

#include <array>
#include <bit>
#include <type_traits>

namespace shadowmon {

static_assert(event_types == SM_EVENT_TYPES);
static_assert(sizeof(Comm) == SM_COMM_SIZE);

std::string_view event_type_name(unsigned type) {
    constexpr std::array<std::string_view, SM_EVENT_TYPES> names = {
        "pad",     "lost",      "syscall_enter", "syscall_exit", "switch",  "unknown_hook",
        "hook",    "irq_enter", "irq_exit",      "type_9",       "type_10", "type_11",
        "type_12", "type_13",   "type_14",       "hook_retired"};
    return type < names.size() ? names[type] : "type_unknown";
}

unsigned event_type(const Event& event) {
    return std::visit(
        [](const auto& body) -> unsigned {
            using Body = std::decay_t<decltype(body)>;
            if constexpr (std::is_same_v<Body, SyscallEnter>)
                return SM_EVENT_SYSCALL_ENTER;
            else if constexpr (std::is_same_v<Body, SyscallExit>)
                return SM_EVENT_SYSCALL_EXIT;
            else if constexpr (std::is_same_v<Body, Switch>)
                return SM_EVENT_SWITCH;
            else if constexpr (std::is_same_v<Body, Lost>)
                return SM_EVENT_LOST;
            else if constexpr (std::is_same_v<Body, HookHit>)
                return SM_EVENT_HOOK;
            else if constexpr (std::is_same_v<Body, IrqEnter>)
                return SM_EVENT_IRQ_ENTER;
            else if constexpr (std::is_same_v<Body, IrqExit>)
                return SM_EVENT_IRQ_EXIT;
            else if constexpr (std::is_same_v<Body, HookRetired>)
                return SM_EVENT_HOOK_RETIRED;
            else
                return SM_EVENT_UNKNOWN_HOOK;
        },
        event.body);
}

// As task_state_index() in include/linux/sched.h: the highest bit counts. The bits are
// the same from 4.14 on; none of them is in a header for user space.
char task_state_letter(uint64_t state) {
    constexpr uint64_t reported = 0x7f;
    constexpr uint64_t idle = 0x402; // uninterruptible, not counted in the load
    constexpr std::string_view letters = "RSDTtXZP";
    if ((state & idle) == idle)
        return 'I';
    return letters[std::bit_width(state & reported)];
}

} // namespace shadowmon
