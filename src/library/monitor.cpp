// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/monitor.h>

#include "src/control/control_socket.h"
#include "src/library/vm_parts.h"
#include "src/session/monitor_session.h"
#include "src/session/trace_figures.h"
#include "src/session/trace_loop.h"

namespace shadowmon {

/// In the order in which they borrow of each other.
struct Monitor::Parts {
    VmProcess process;
    Callbacks callbacks;
    std::unique_ptr<MonitorSession> session;
    std::optional<ControlServer> control;
    TraceLoop loop;
    bool stopped = false;

    Parts(VmProcess the_process, Callbacks the_callbacks, std::unique_ptr<MonitorSession> armed)
        : process(std::move(the_process)), callbacks(std::move(the_callbacks)),
          session(std::move(armed)), loop(*session, callbacks, process.pidfd()) {}
};

Monitor::Monitor(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Monitor::Monitor(Monitor&& other) noexcept = default;
Monitor& Monitor::operator=(Monitor&& other) noexcept = default;
Monitor::~Monitor() = default;

Result<Monitor> Monitor::attach(Vm vm, const Options& options, Callbacks callbacks) {
    if (auto good = options.check(); !good)
        return fail(good.error());
    auto session = MonitorSession::arm(
        std::move(vm.parts_->views), options,
        callbacks.step ? callbacks.step : [](const std::string&) {});
    if (!session)
        return fail(session.error());
    return Monitor(std::make_unique<Parts>(std::move(vm.parts_->process), std::move(callbacks),
                                           std::move(*session)));
}

Result<Monitor> Monitor::attach(int vmm_pid, const Options& options, Callbacks callbacks) {
    if (auto good = options.check(); !good)
        return fail(good.error());
    auto vm = Vm::open(vmm_pid);
    if (!vm)
        return fail(vm.error());
    return attach(std::move(*vm), options, std::move(callbacks));
}

Result<int> Monitor::fd() { return parts_->loop.fd(); }
std::optional<TraceEnd> Monitor::dispatch() { return parts_->loop.dispatch(); }
TraceEnd Monitor::run(const RunUntil& until) { return parts_->loop.run(until.duration, until.fd); }
const std::optional<Error>& Monitor::error() const { return parts_->loop.error(); }

Status Monitor::stop() {
    if (std::exchange(parts_->stopped, true))
        return {};
    return parts_->loop.stop();
}

Status Monitor::detach() {
    auto stopped = stop();
    auto detached = parts_->loop.detach();
    return stopped ? detached : stopped;
}

std::vector<HookStatus> Monitor::hooks() const { return parts_->session->list_hooks(); }

Result<HookReply> Monitor::change(HookCommand::Verb verb, const std::vector<std::string>& hooks,
                                  std::optional<uint64_t> limit) {
    HookReply reply = parts_->loop.answer({verb, hooks, limit});
    if (!reply.error.empty())
        return fail(Error(std::move(reply.error)));
    return reply;
}

Result<HookReply> Monitor::add_hooks(const std::vector<std::string>& places,
                                     std::optional<uint64_t> limit) {
    return change(HookCommand::Verb::add, places, limit);
}

Result<HookReply> Monitor::remove_hooks(const std::vector<std::string>& names) {
    return change(HookCommand::Verb::remove, names);
}

Result<HookReply> Monitor::disable_hooks(const std::vector<std::string>& names) {
    return change(HookCommand::Verb::disable, names);
}

Result<HookReply> Monitor::enable_hooks(const std::vector<std::string>& names) {
    return change(HookCommand::Verb::enable, names);
}

Status Monitor::listen(const std::string& path) {
    auto server = ControlServer::listen(path.empty() ? control_path(parts_->process.pid()) : path);
    if (!server)
        return fail(server.error());
    parts_->control.emplace(std::move(*server));
    parts_->loop.listen_to(&*parts_->control);
    return {};
}

const std::string& Monitor::kernel_release() const { return parts_->session->kernel().release; }
uint64_t Monitor::events() const { return parts_->loop.events(); }
LostCounter Monitor::lost() const { return parts_->session->merger().lost(); }
uint64_t Monitor::late() const { return parts_->session->merger().late(); }

std::vector<Figure> Monitor::figures() const {
    const MonitorSession& session = *parts_->session;
    auto stats = session.stats();
    if (!stats)
        return {};
    return trace_figures({.stats = *stats,
                          .events = parts_->loop.events(),
                          .pause_tsc = session.pause_tsc(),
                          .shadow_time = session.shadow_time(),
                          .incidents = parts_->loop.incidents(),
                          .freed_slots = session.freed_slots(),
                          .places_left = parts_->loop.places_left()});
}

} // namespace shadowmon
