// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/trace_loop.h"

#include "src/session/incident.h"

#include <algorithm>
#include <poll.h>
#include <utility>

namespace shadowmon {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Rings are read without anybody telling that they hold something (telling would cost
// the guest an exit): often while events come, seldom while none do.
constexpr milliseconds busy_wait{1};
constexpr milliseconds idle_wait{20};
constexpr size_t full_batch = 4096; // as many events in one poll: look again at once

constexpr seconds panic_interval{1};
constexpr seconds clock_interval{30};
constexpr seconds settle_time{5}; // for vCPUs to finish their last event
constexpr uint64_t max_told_incidents = 20;

bool gone(const Error& error) { return error.code() == ENODEV || error.code() == ESRCH; }

} // namespace

const char* describe(TraceEnd end) {
    switch (end) {
    case TraceEnd::asked:
        return "ended by a signal";
    case TraceEnd::time_over:
        return "the time is over";
    case TraceEnd::vm_gone:
        return "the VM has ended";
    case TraceEnd::vm_reset:
        return "the guest was reset";
    case TraceEnd::panic:
        return "the guest's kernel has panicked";
    case TraceEnd::output:
        return "the output cannot be written";
    case TraceEnd::failed:
        return "failed";
    }
    return "";
}

TraceLoop::TraceLoop(MonitorSession& session, const Callbacks& callbacks, int vmm_pidfd)
    : session_(session), callbacks_(callbacks), vmm_pidfd_(vmm_pidfd),
      next_panic_check_(session_.now() + panic_interval),
      next_clock_sync_(session_.now() + clock_interval) {}

TraceEnd TraceLoop::fail_with(Error error) {
    if (gone(error)) {
        vm_gone_ = true;
        return TraceEnd::vm_gone;
    }
    error_ = std::move(error);
    return TraceEnd::failed;
}

void TraceLoop::notice(const std::string& what) const {
    if (callbacks_.notice)
        callbacks_.notice(what);
}

void TraceLoop::count(const Event& event) {
    events_++;
    if (callbacks_.event)
        callbacks_.event(event);
}

size_t TraceLoop::pump() {
    size_t n = session_.merger().poll([&](const Event& event) { count(event); });
    for (const Error& error : session_.merger().take_errors())
        notice(error.message());
    tell_news();
    if (n > 0 && callbacks_.batch_end && !output_error_)
        if (auto status = callbacks_.batch_end(); !status)
            output_error_ = status.error();
    session_.tick();
    return n;
}

/// Hooks that went because of the guest.
void TraceLoop::tell_news() {
    auto news = session_.take_news();
    for (const RetiredHook& retired : news.retired)
        if (callbacks_.event)
            callbacks_.event(session_.event_of(retired));
    for (const std::string& note : news.notes)
        incident(note);
    if (!news.retired.empty() && callbacks_.batch_end && !output_error_)
        if (auto status = callbacks_.batch_end(); !status)
            output_error_ = status.error();
}

HookReply TraceLoop::answer(const HookCommand& command) {
    return session_.answer(command, [this] {
        pump();
        // A vCPU that waits for room would wait for the whole of it.
        if (auto events = session_.take_events(); events && !deferred_)
            deferred_ = react(*events);
        (void)session_.resume_parked();
    });
}

/// Something that a guest can cause as often as it likes: the first ones are told.
void TraceLoop::incident(const std::string& what) {
    if (++incidents_ < max_told_incidents)
        notice(what);
    else if (incidents_ == max_told_incidents)
        notice(what + " (further ones are only counted)");
}

void TraceLoop::free_stray_slots() {
    auto freed = session_.free_stray_slots();
    if (!freed) {
        // The trace goes on without the slots that are lost.
        if (!gone(freed.error()) && freed.error().code() != EINTR &&
            !std::exchange(told_blind_, true))
            notice(freed.error().in("look for slots that nobody holds").message());
        return;
    }
    for (const FreedSlot& slot : *freed)
        incident(fmt::format("slot {}: the vCPU that held it was taken out of the shadow view; it "
                             "is free again, an event that was not complete is lost",
                             slot.index));
}

std::optional<TraceEnd> TraceLoop::react(const std::vector<kvm_views_event>& events) {
    std::vector<Gpa> overwritten;
    for (const kvm_views_event& event : events) {
        // INIT of one vCPU is the guest's doing, and leaves its memory and hooks as they are.
        if (event.type == KVM_VIEWS_EVENT_RESET && !(event.arg & KVM_VIEWS_RESET_INIT)) {
            was_reset_ = true;
            return TraceEnd::vm_reset;
        }
        if (event.type == KVM_VIEWS_EVENT_OVERWRITTEN)
            overwritten.emplace_back(event.gpa);
        else if (event.type != KVM_VIEWS_EVENT_CALL)
            incident(describe(event));
    }
    if (!overwritten.empty())
        for (const std::string& note : session_.overwritten(overwritten))
            incident(note);
    return std::nullopt;
}

/// All that needs no waiting; sets `wait_`.
std::optional<TraceEnd> TraceLoop::work() {
    size_t n = pump();
    if (output_error_) {
        error_ = output_error_;
        return TraceEnd::output;
    }
    if (auto status = session_.resume_parked(); !status)
        return fail_with(status.error());
    free_stray_slots();
    if (n > 0 || session_.merger().holding())
        wait_ = busy_wait;
    else
        wait_ = std::clamp(wait_ * 2, busy_wait, idle_wait);
    if (n >= full_batch)
        wait_ = milliseconds(0);

    auto now = session_.now();
    if (now >= next_panic_check_) {
        next_panic_check_ = now + panic_interval;
        if (session_.guest_panicked())
            return TraceEnd::panic;
        session_.check_modules();
    }
    if (now >= next_clock_sync_) {
        next_clock_sync_ = now + clock_interval;
        session_.resync_clock();
    }
    return std::nullopt;
}

/// Waits until somebody wants something, and does it.
std::optional<TraceEnd> TraceLoop::look(milliseconds wait, int stop_fd) {
    std::vector<pollfd> fds = {
        {session_.views().fd(), POLLIN, 0}, {vmm_pidfd_, POLLIN, 0}, {stop_fd, POLLIN, 0}};
    if (control_)
        control_->add_to(fds);
    if (::poll(fds.data(), fds.size(), static_cast<int>(wait.count())) < 0) {
        if (errno == EINTR)
            return std::nullopt;
        return fail_with(Error::from_errno("wait for the VM"));
    }
    if (control_)
        control_->serve([this](const HookCommand& command) { return answer(command); });
    if (deferred_)
        return *deferred_;
    if (fds[2].revents)
        return TraceEnd::asked;
    if (fds[0].revents & POLLIN) {
        auto events = session_.take_events();
        if (!events)
            return fail_with(events.error());
        if (auto end = react(*events))
            return end;
    }
    if ((fds[0].revents & (POLLHUP | POLLERR)) || fds[1].revents) {
        vm_gone_ = true;
        return TraceEnd::vm_gone;
    }
    return std::nullopt;
}

TraceEnd TraceLoop::run(std::optional<milliseconds> duration, int stop_fd) {
    auto start = session_.now();
    for (;;) {
        if (auto end = work())
            return *end;
        milliseconds wait = wait_;
        if (duration) {
            auto left = std::chrono::ceil<milliseconds>(start + *duration - session_.now());
            if (left <= milliseconds(0))
                return TraceEnd::time_over;
            wait = std::min(wait, left);
        }
        if (auto end = look(wait, stop_fd))
            return *end;
    }
}

Result<int> TraceLoop::fd() {
    if (!waiting_) {
        auto made = WaitSet::make();
        if (!made)
            return fail(made.error());
        waiting_ = std::move(*made);
        SM_TRY(watch());
        SM_TRY(waiting_->wake_in(milliseconds(0)));
    }
    return waiting_->fd();
}

Status TraceLoop::watch() {
    std::vector<pollfd> fds = {{session_.views().fd(), POLLIN, 0}, {vmm_pidfd_, POLLIN, 0}};
    if (control_)
        control_->add_to(fds);
    return waiting_->watch(fds);
}

std::optional<TraceEnd> TraceLoop::dispatch() {
    if (auto end = work())
        return end;
    if (auto end = look(milliseconds(0)))
        return end;
    if (!waiting_)
        return std::nullopt;
    // Clients of the control socket come and go.
    if (auto status = watch(); !status)
        return fail_with(status.error());
    if (auto status = waiting_->wake_in(wait_); !status)
        return fail_with(status.error());
    return std::nullopt;
}

/// Keeps the first problem; that the VM has ended is none.
void TraceLoop::note(const Status& status, Status& first) {
    if (status)
        return;
    if (gone(status.error())) {
        vm_gone_ = true;
        return;
    }
    notice(status.error().message());
    if (first)
        first = status;
}

Status TraceLoop::stop() {
    Status first;
    if (vm_gone_)
        return first;
    auto reverted = session_.revert_hooks();
    // The guest may have overwritten a hook. Undoing puts back what can be put back.
    if (!reverted && reverted.error().code() != ESTALE)
        note(reverted, first);
    // A vCPU that waits for room in its ring gets it; one that the VMM keeps paused
    // within the gate is left to the kernel.
    auto deadline = session_.now() + settle_time;
    while (!session_.quiet() && session_.now() < deadline) {
        pollfd fds[] = {{session_.views().fd(), POLLIN, 0}};
        if (::poll(fds, 1, static_cast<int>(busy_wait.count())) > 0) {
            if (fds[0].revents & (POLLHUP | POLLERR)) {
                vm_gone_ = true;
                break;
            }
            if (auto events = session_.take_events())
                (void)react(*events);
        }
        pump();
        note(session_.resume_parked(), first);
        free_stray_slots();
    }
    pump();
    note(session_.resume_parked(), first);
    return first;
}

Status TraceLoop::detach() {
    Status first;
    // Also without a VM: it waits for nothing then.
    auto disabled = session_.detach();
    if (!disabled && disabled.error().code() == EINTR)
        disabled = fail(Error("the VM still has a vCPU inside the monitor's gate (is the VM "
                              "paused?): the kernel takes the rest out as soon as it runs on",
                              EINTR));
    note(disabled, first);
    session_.merger().drain([&](const Event& event) { count(event); });
    for (const Error& error : session_.merger().take_errors())
        notice(error.message());
    tell_news();
    tell_conflicts();
    return first;
}

/// Places that could not be put back. Only a guest that lives on in the same memory has
/// changed them itself.
void TraceLoop::tell_conflicts() {
    uint64_t places = places_left();
    if (places == 0)
        return;
    if (was_reset_)
        notice(fmt::format("the guest was reset with the hooks in its kernel: {} of the patched "
                           "places had been overwritten by then; nothing of the monitor is left "
                           "in it",
                           places));
    else
        notice(fmt::format("the guest had changed {} of the patched places; they were left as the "
                           "guest wants them",
                           places));
}

} // namespace shadowmon
