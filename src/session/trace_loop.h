// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/control/control_socket.h"
#include "src/output/output.h"
#include "src/session/monitor_session.h"
#include "src/session/signals.h"

#include <chrono>
#include <optional>
#include <string>

namespace shadowmon {

/// Why a trace ended.
enum class TraceEnd {
    asked,     ///< a signal
    time_over, ///< the duration is over
    vm_gone,   ///< the VM was powered off or its VMM ended
    vm_reset,  ///< the guest rebooted
    panic,     ///< the guest's kernel panicked
    output,    ///< the output cannot be written any more
    failed,    ///< something else; the error says what
};
const char* describe(TraceEnd end);

/// Something that happened beside the events, for the log.
using NoticeLog = std::function<void(const std::string&)>;

/// Runs a trace: brings the events of a session to an output until it ends, reacts to
/// what the kernel, the VMM and the user do meanwhile, and takes the session down.
/// Borrows all it is given; one thread.
class TraceLoop {
  public:
    TraceLoop(MonitorSession& session, Output& output, SummaryCollector& collector, int vmm_pidfd,
              Signals& signals, NoticeLog notice)
        : session_(session), output_(output), collector_(collector), vmm_pidfd_(vmm_pidfd),
          signals_(signals), notice_(std::move(notice)) {}

    /// Commands that come there are answered while the trace runs. Null: nobody may ask.
    void listen_to(ControlServer* control) { control_ = control; }

    /// Returns when the trace has ended; the VM is still armed.
    TraceEnd run(std::optional<std::chrono::milliseconds> duration);

    /// Takes the hooks out, reads what is left and undoes everything. Problems are
    /// told to the notice log; the first is returned.
    Status finish();

    const std::optional<Error>& error() const { return error_; }
    uint64_t events() const { return events_; }
    uint64_t incidents() const { return incidents_; }

    /// Patched places that finish() left as a guest that lives on has changed them.
    uint64_t places_left() const { return vm_gone_ ? 0 : session_.undo_conflicts(); }

  private:
    size_t pump();
    void answer_commands();
    std::optional<TraceEnd> react(const std::vector<kvm_views_event>& events);
    TraceEnd fail_with(Error error);
    void incident(const std::string& what);
    void free_stray_slots();
    void tell_conflicts();
    void tell_news();

    MonitorSession& session_;
    Output& output_;
    SummaryCollector& collector_;
    int vmm_pidfd_;
    Signals& signals_;
    NoticeLog notice_;
    ControlServer* control_ = nullptr;
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
