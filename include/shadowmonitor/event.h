// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/address.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>

namespace shadowmon {

/// Numbers of event types are below this: event_type() of an Event, event_type_name() of all.
inline constexpr size_t event_types = 16;

/// A counter for each type of event.
using TypeCounts = std::array<uint64_t, event_types>;

/// A process name as the guest's kernel keeps it: any bytes, up to the first NUL.
/// The guest chooses them, so nothing may print them without escaping (escape.h).
struct Comm {
    std::array<char, 16> bytes{};

    std::string_view view() const {
        return {bytes.begin(), std::find(bytes.begin(), bytes.end(), '\0')};
    }
    bool operator==(const Comm&) const = default;
};

/// The task that an event happened in, read by the payload at that moment.
struct Process {
    Gva task; ///< its task_struct
    uint32_t tid = 0;
    uint32_t pid = 0; ///< of the thread group
    uint32_t ppid = 0;
    uint32_t uid = 0;
    Comm comm;
};

/// A system call by number. `name` is empty if the kernel's headers know no such number.
struct Syscall {
    int32_t nr = 0;      ///< the low half of the register, which is what the kernel looks at
    bool compat = false; ///< number and arguments are those of the 32-bit ABI
    std::string_view name;
};

struct SyscallEnter {
    Syscall call;
    std::array<uint64_t, 6> args{}; ///< raw registers in the order of the convention
};

struct SyscallExit {
    Syscall call;
    int64_t ret = 0;
    std::string_view error; ///< "ENOENT" for -2 and so on, empty if `ret` is no error
};

/// Event::process is the previous task.
struct Switch {
    uint64_t prev_state = 0; ///< task->__state of the previous task
    Gva next_task;
    uint32_t next_tid = 0;
    uint32_t next_pid = 0;
    Comm next_comm;
};

/// Events that found no room in this event's ring since its last Lost, by type.
struct Lost {
    TypeCounts by_type{};

    uint64_t total() const {
        uint64_t sum = 0;
        for (uint64_t n : by_type)
            sum += n;
        return sum;
    }
};

/// A hook that the user named was hit; the registers are those before the instruction.
struct HookHit {
    std::string_view name;          ///< as the user or a pattern named it; the monitor's own
    std::array<uint64_t, 6> args{}; ///< rdi, rsi, rdx, rcx, r8, r9
    uint64_t ax = 0;
    uint64_t sp = 0;
    uint64_t flags = 0;
};

/// An interrupt begins to be handled. Event::process is the one that it interrupts.
struct IrqEnter {
    std::optional<uint32_t> vector; ///< nothing: the guest's register held none
    std::optional<uint32_t> irq;    ///< number of the device's line, as in /proc/interrupts
    /// The device's handler as a symbol, or its address where the kernel has none for it (a
    /// module's); of a system vector, or where no device is found, the kernel's entry function.
    /// The monitor's own.
    std::string_view handler;
};

/// Handling is over. If the entry is not known for sure, there is no duration, and vector and
/// handler are no more than what the hook tells.
struct IrqExit {
    std::optional<uint32_t> vector;
    std::optional<uint32_t> irq;
    std::string_view handler;
    std::optional<uint64_t> duration_ns; ///< from entry to exit, by the guest's TSC
};

/// A hook has gone because of the guest: it wrote to its place, or unloaded its module. Told by the
/// host when it noticed: no task, ring or number.
struct HookRetired {
    std::string_view name; ///< as in HookHit
    std::string_view why;
};

/// The gate was entered from no hook: the guest ran INT 20 of its own.
struct UnknownHook {
    Gva rip; ///< return address of the frame
    Gva rsp;
};

/// One event, decoded: the model that every output and the summary work from. Times are
/// nanoseconds, ids and addresses are the guest's. Holds no pointer into a ring, so it may be
/// copied and kept; its string views are of static tables or of the monitor's own names, and good
/// until the Monitor that gave it out is destroyed.
struct Event {
    using Body = std::variant<SyscallEnter, SyscallExit, Switch, Lost, UnknownHook, HookHit,
                              IrqEnter, IrqExit, HookRetired>;

    uint64_t tsc = 0;         ///< guest TSC
    uint64_t realtime_ns = 0; ///< the same instant as nanoseconds of the host's CLOCK_REALTIME
    uint64_t seq = 0;         ///< in its ring, counts recorded and lost events
    uint64_t cr3 = 0;
    uint32_t ring = 0;
    uint32_t cpu = 0; ///< as the guest states it
    uint32_t hook = 0;
    bool late = false;    ///< an event with a later TSC came out before this one
    bool no_task = false; ///< the task could not be read: `process` is all 0
    bool no_body = false; ///< what the body is read from could not be read: it is 0
    Process process;
    Body body;

    template <typename T> const T* get_if() const { return std::get_if<T>(&body); }
};

/// Stable name of an event type, used by all formats. A number that means no event has a
/// name as well ("type_9"): counters have one for each.
std::string_view event_type_name(unsigned type);

/// The number of an event's type, below `event_types`.
unsigned event_type(const Event& event);

/// The letter that ps shows for a task->__state: R, S, D, T, t, X, Z, P or I.
char task_state_letter(uint64_t state);

} // namespace shadowmon
