// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/event.h>
#include <shadowmonitor/lost_counter.h>

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace shadowmon {

struct ProcessCount {
    uint32_t pid = 0;
    Comm comm;
    uint64_t events = 0;
    uint64_t syscalls = 0; ///< entries
    uint64_t switches = 0; ///< away from it
};

struct SyscallCount {
    std::string name; ///< as syscall_label() has it
    int32_t nr = 0;
    bool compat = false;
    uint64_t calls = 0;   ///< entries
    uint64_t returns = 0; ///< exits
    uint64_t errors = 0;  ///< exits with an error
};

struct HookCount {
    std::string name;
    uint64_t hits = 0;
};

struct IrqCount {
    std::string handler;
    uint64_t entries = 0;
    uint64_t timed = 0;    ///< exits whose entry is known
    uint64_t unpaired = 0; ///< exits whose entry is not
    uint64_t total_ns = 0; ///< of the timed ones
};

/// A number beside the events: VM exits per event and the like.
struct Figure {
    std::string key;   ///< in JSON ("vm_exits_per_event")
    std::string label; ///< in text ("VM exits per event")
    double value = 0;
};

/// What a trace saw, as the outputs print it at the end.
struct Summary {
    uint64_t events = 0; ///< all but the notices of lost ones and of hooks that have gone
    TypeCounts by_type{};
    uint64_t late = 0;
    uint64_t first_ns = 0; ///< CLOCK_REALTIME of the first event and of the last one
    uint64_t last_ns = 0;
    std::vector<ProcessCount> processes; ///< busiest first, cut to the top N
    uint64_t process_count = 0;          ///< in all; a name change by exec counts as another
    std::vector<SyscallCount> syscalls;  ///< most entries first, cut to the top N
    uint64_t syscall_count = 0;          ///< different ones in all
    std::vector<HookCount> hooks;        ///< hit most often first, cut to the top N
    uint64_t hook_count = 0;             ///< hooks hit in all
    std::vector<IrqCount> irqs;          ///< longest in all first, cut to the top N
    uint64_t irq_count = 0;              ///< handlers in all
    LostCounter lost;
    std::vector<Figure> figures;
};

/// Counts events for the summary. Must not outlive the Monitor that they came from. One thread
/// uses it. Its memory is bounded: from max_processes different
/// processes on, further ones are counted together under pid 0 and the name "(others)".
class SummaryCollector {
  public:
    void event(const Event& event);

    /// The state so far, with the `top` busiest processes and system calls.
    Summary summary(const LostCounter& lost, size_t top = 10) const;

    static constexpr size_t max_processes = 65536;

  private:
    struct Key {
        uint32_t pid;
        Comm comm;
        bool operator==(const Key&) const = default;
    };
    struct Hash {
        size_t operator()(const Key& key) const;
    };
    struct Calls {
        uint64_t calls = 0, returns = 0, errors = 0;
    };
    /// Numbers beyond this are no system calls; they are counted together, as number -1.
    static constexpr size_t numbers = 1024;

    ProcessCount& process(const Process& process);
    Calls& calls(const Syscall& call);

    Summary totals_;
    std::unordered_map<Key, ProcessCount, Hash> processes_;
    ProcessCount* last_process_ = nullptr;
    std::array<std::array<Calls, numbers + 1>, 2> calls_{};
    std::unordered_map<std::string_view, IrqCount> irqs_; ///< by handler, likewise
    std::unordered_map<std::string_view, uint64_t> hits_; ///< by name, which the monitor owns
};

} // namespace shadowmon
