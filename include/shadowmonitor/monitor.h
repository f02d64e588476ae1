// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/event.h>
#include <shadowmonitor/hooks.h>
#include <shadowmonitor/lost_counter.h>
#include <shadowmonitor/options.h>
#include <shadowmonitor/result.h>
#include <shadowmonitor/summary.h>
#include <shadowmonitor/vm.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// What a monitor calls, on the thread that uses it and from within its methods. Each may be
/// empty. None may call a method of the monitor.
struct Callbacks {
    /// Each event, in the order of the guest's TSC.
    std::function<void(const Event&)> event;
    /// After the last event of a batch: to write out what was gathered, say. An error ends the
    /// trace with TraceEnd::output.
    std::function<Status()> batch_end;
    /// Something that happened beside the events: a hook that the guest has overwritten, an
    /// attempt to enter the compartment. Of what a guest can cause at will the first 20 are told.
    Log notice;
    /// The steps of attaching.
    Log step;
};

/// Why a trace ended.
enum class TraceEnd {
    asked,     ///< by a signal, that is: by the descriptor given to run()
    time_over, ///< the duration is over
    vm_gone,   ///< the VM was powered off or its VMM ended
    vm_reset,  ///< the guest rebooted
    panic,     ///< the guest's kernel panicked
    output,    ///< the output cannot be written any more: Callbacks::batch_end failed
    failed,    ///< something else; error() says what
};
const char* describe(TraceEnd end);

/// What ends Monitor::run(), beside the VM.
struct RunUntil {
    std::optional<std::chrono::milliseconds> duration;
    int fd = -1; ///< a descriptor (of signals, say) that gets readable; stays the caller's
};

/// A VM being watched. Owns its Vm, what was put into the guest and the memory that events come
/// through. Destroying it takes everything out of the guest, which runs on; so does the death of
/// this process in whatever way, by the kernel. One thread uses it at a time.
///
///     auto monitor = Monitor::attach(pid, options, callbacks);
///     monitor->run({.duration = std::chrono::seconds(10)});
///     monitor->detach();
///
/// Events lie in rings until they are fetched: by run(), or by dispatch() whenever fd() is
/// readable. Who does neither for long loses events, or holds up the guest (WhenFull).
class Monitor {
  public:
    /// Looks at the guest, plans the hooks and puts them in, with all vCPUs stopped for a moment.
    /// On return events flow. Takes a second or two. After a failure the VM is as it was.
    [[nodiscard]] static Result<Monitor> attach(Vm vm, const Options& options, Callbacks callbacks);

    /// The same after Vm::open(vmm_pid).
    [[nodiscard]] static Result<Monitor> attach(int vmm_pid, const Options& options,
                                                Callbacks callbacks);

    Monitor(Monitor&& other) noexcept;
    Monitor& operator=(Monitor&& other) noexcept;
    ~Monitor();

    /// For an event loop of the caller's: a descriptor (of epoll; the monitor's own) that is
    /// readable when dispatch() should be called: within 20 ms, within 1 ms while events come.
    Result<int> fd();

    /// Gives out the events that are due and does whatever else is due; does not wait. Returns
    /// why the trace has ended, once it has; then stop() or detach() are left to be called.
    std::optional<TraceEnd> dispatch();

    /// dispatch() again and again until the trace ends, or until that is asked for: then it may be
    /// run again.
    TraceEnd run(const RunUntil& until = {});

    /// Of TraceEnd::failed and TraceEnd::output.
    const std::optional<Error>& error() const;

    /// Takes all hooks out of the guest and gives out the events that were recorded by then, which
    /// takes up to 5 s if a vCPU is stopped in the middle of one. Then no event begins any more.
    Status stop();

    /// stop(), then undoes the rest, waits until that is done and gives out the last events. Waits
    /// for ever while the VMM keeps a vCPU stopped within the monitor's gate: a signal with a
    /// handler ends the wait with the error code EINTR, and the kernel goes on undoing by itself.
    /// Problems are told to Callbacks::notice as well; the first is returned.
    Status detach();

    // Hooks. Names are ids, or names as they were added, also with * and ?. Each change is a batch
    // with all vCPUs stopped; other hooks record on. While a change takes long (adding the first
    // hook reads the kernel's code) events are given out meanwhile.

    /// All hooks, those of the monitors too, with their counters.
    std::vector<HookStatus> hooks() const;

    /// Hooks places, named as in Options::hooks; all or none. What is hooked already is passed
    /// over with a note; what is of a module that is not loaded waits for it. `limit`: events per
    /// second of each.
    Result<HookReply> add_hooks(const std::vector<std::string>& places,
                                std::optional<uint64_t> limit = std::nullopt);
    Result<HookReply> remove_hooks(const std::vector<std::string>& names);
    Result<HookReply> disable_hooks(const std::vector<std::string>& names); ///< keeps counters
    Result<HookReply> enable_hooks(const std::vector<std::string>& names);

    /// Lets `shadowmon hooks` of the same user (and of root) do all that from outside, by a socket
    /// at `path`; empty: where it looks by default. The socket goes with the monitor.
    Status listen(const std::string& path = {});

    const std::string& kernel_release() const; ///< of the guest, as `uname -r` says it
    uint64_t events() const;                   ///< given out so far
    LostCounter lost() const;
    uint64_t late() const; ///< events given out after one with a later TSC

    /// Numbers beside the events since attaching: VM exits in all and by cause, ticks that an
    /// event takes, the pause of attaching, incidents. Empty if the VM cannot be asked any more.
    std::vector<Figure> figures() const;

  private:
    struct Parts;
    explicit Monitor(std::unique_ptr<Parts> parts);
    Result<HookReply> change(HookCommand::Verb verb, const std::vector<std::string>& hooks,
                             std::optional<uint64_t> limit = std::nullopt);

    std::unique_ptr<Parts> parts_;
};

} // namespace shadowmon
