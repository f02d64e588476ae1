// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/control/control_socket.h"
#include "src/session/monitor_session.h"
#include "src/session/wait_set.h"

#include <chrono>
#include <optional>
#include <poll.h>
#include <shadowmonitor/monitor.h>
#include <string>

namespace shadowmon {

/// Runs a trace: brings the events of a session to its user until it ends, reacts to what the
/// kernel, the VMM and others do meanwhile, and takes the session down. Borrows all it is given;
/// one thread.
class TraceLoop {
  public:
    TraceLoop(MonitorSession& session, const Callbacks& callbacks, int vmm_pidfd);

    /// Commands that come there are answered while the trace runs. Null: nobody may ask.
    void listen_to(ControlServer* control) { control_ = control; }

    /// Readable when dispatch() should be called. Made with the first call.
    Result<int> fd();

    /// Does what is due, without waiting; says why the trace has ended, if it has. The VM is still
    /// armed then.
    std::optional<TraceEnd> dispatch();

    /// The same until the trace ends, or the time is over, or `stop_fd` (-1: none) is readable.
    TraceEnd run(std::optional<std::chrono::milliseconds> duration, int stop_fd = -1);

    /// Answers a command as one from the control socket; events are given out meanwhile.
    HookReply answer(const HookCommand& command);

    /// Takes the hooks out and reads what is left. Problems are told to the user; the first is
    /// returned.
    Status stop();

    /// After stop(): undoes everything. A signal ends the wait with EINTR.
    Status detach();

    const std::optional<Error>& error() const { return error_; }
    uint64_t events() const { return events_; }
    uint64_t incidents() const { return incidents_; }

    /// Patched places that detach() left as a guest that lives on has changed them.
    uint64_t places_left() const { return vm_gone_ ? 0 : session_.undo_conflicts(); }

  private:
    std::optional<TraceEnd> work();
    std::optional<TraceEnd> look(std::chrono::milliseconds wait, int stop_fd = -1);
    Status watch();
    size_t pump();
    void count(const Event& event);
    std::optional<TraceEnd> react(const std::vector<kvm_views_event>& events);
    TraceEnd fail_with(Error error);
    void notice(const std::string& what) const;
    void note(const Status& status, Status& first);
    void incident(const std::string& what);
    void free_stray_slots();
    void tell_conflicts();
    void tell_news();

    MonitorSession& session_;
    const Callbacks& callbacks_;
    int vmm_pidfd_;
    ControlServer* control_ = nullptr;
    std::optional<WaitSet> waiting_; ///< for fd()

    std::chrono::milliseconds wait_{0};         ///< until there is something to do again
    std::chrono::nanoseconds next_panic_check_; ///< by the session's clock
    std::chrono::nanoseconds next_clock_sync_;
    std::optional<Error> error_;
    std::optional<Error> output_error_;
    std::optional<TraceEnd> deferred_; ///< met while a command was answered
    bool vm_gone_ = false;
    bool was_reset_ = false;
    bool told_blind_ = false;
    uint64_t events_ = 0;
    uint64_t incidents_ = 0;
};

} // namespace shadowmon
