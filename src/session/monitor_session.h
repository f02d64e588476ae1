// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/compartment/layout.h"
#include "src/events/merger.h"
#include "src/guest/module_functions.h"
#include "src/session/entry_plan.h"
#include "src/session/hook_plan.h"
#include "src/session/hook_set.h"
#include "src/session/stray_slots.h"
#include "src/session/user_hooks.h"
#include "src/vm/live_memory.h"
#include "src/vm/views.h"

#include <memory>
#include <optional>
#include <set>
#include <shadowmonitor/options.h>
#include <shadowmonitor/vm.h>
#include <string>
#include <vector>

namespace shadowmon {

/// What events took in the shadow view, from the claim of a slot to right before its
/// release, in TSC ticks of the guest; about one event of SM_SAMPLE_PERIOD is timed.
struct ShadowTime {
    uint64_t ticks = 0; ///< of all samples together
    uint64_t samples = 0;
    uint64_t cut = 0; ///< samples left out because the host ran in the middle of them
};

/// A VM being watched: its views, the compartment and the hooks in the guest's text.
/// Owns all of it; destroying it undoes all of it (the kernel does, when the views
/// fd closes), and so does any failure on the way. One thread uses it.
class MonitorSession {
  public:
    /// Looks at the guest, plans, builds the compartment and arms the VM. On return
    /// events flow. `views` are fresh ones.
    [[nodiscard]] static Result<std::unique_ptr<MonitorSession>>
    arm(std::unique_ptr<Views> views, const Options& options, const Log& log,
        HostClock clock = steady_clock());

    std::chrono::nanoseconds now() const { return clock_(); } ///< monotonic
    Merger& merger() { return *merger_; }
    const Views& views() const { return *views_; }
    const KernelInfo& kernel() const { return *kernel_; }
    const Layout& layout() const { return *layout_; }
    const HookSet& hooks() const { return *hooks_; }
    std::vector<HookStatus> list_hooks() const { return user_hooks_->list(); }

    /// Answers what is asked of the hooks; `meanwhile` is called while that takes long.
    HookReply answer(const HookCommand& command, const UserHooks::Meanwhile& meanwhile);

    /// After each poll of the merger: brings hooks that are leaving a step further.
    void tick();

    /// The guest has written to the places of hooks. Returns what the user should know of it.
    std::vector<std::string> overwritten(std::span<const Gpa> places);

    /// Takes the hooks out of modules that have gone, and puts them into those that have come, if
    /// that was not told. Now and then.
    void check_modules();

    /// What has become of hooks since the last call: those that went because of the guest, as
    /// events whose texts live as long as `retired`, and notes for the log.
    struct News {
        std::vector<RetiredHook> retired;
        std::vector<std::string> notes;
    };
    News take_news();
    Event event_of(const RetiredHook& retired);
    uint64_t pause_tsc() const { return pause_tsc_; } ///< host TSC ticks of the arming pause

    /// What the views counted since the VM was armed; after detach(), up to then.
    Result<kvm_views_stats> stats() const;

    /// Patched places that detach() left alone because the guest had changed them.
    uint64_t undo_conflicts() const { return undo_conflicts_; }

    /// What the kernel reported since the last call. Parked vCPUs are remembered for
    /// resume_parked().
    Result<std::vector<kvm_views_event>> take_events();

    /// Lets the vCPUs that wait for room in their ring go on, after a poll of the merger.
    Status resume_parked();

    /// Frees the slots that vCPUs have lost with the shadow view. Cheap; after each poll
    /// of the merger.
    Result<std::vector<FreedSlot>> free_stray_slots();
    uint64_t freed_slots() const { return strays_ ? strays_->freed() : 0; }

    ShadowTime shadow_time() const;

    /// True if the guest's kernel has panicked.
    bool guest_panicked() const;

    /// Corrects the clock of the events. Cheap; now and then.
    void resync_clock();

    /// Takes the hooks out of the guest's text; from then on no event begins.
    Status revert_hooks();

    /// True if no vCPU was making an event just now.
    bool quiet() const;

    /// Undoes everything and waits for it. Error code EINTR: a signal came first; the
    /// kernel goes on undoing by itself.
    Status detach();

  private:
    MonitorSession(std::unique_ptr<Views> views, LiveMemory memory, HostClock clock)
        : clock_(std::move(clock)), views_(std::move(views)), memory_(std::move(memory)) {}

    Status look_at_guest(const Options& options, const Log& log);
    Status build(const Options& options, const Log& log);
    Status place_hooks(const Options& options, const Log& log);
    void tell_hooks_changed();
    void name_hook(const HookStatus& hook);
    void introduce(const HookStatus& hook, const Log& log);
    void note(const UserHooks::Changed& changed);
    std::string function_name(Gva at);
    Status open_way(const Log& log);
    Status hook_modules(const Options& options, const Log& log);
    Status start_reading();
    sm_config guest_config(const Options& options) const;

    HostClock clock_;
    std::unique_ptr<Views> views_;
    LiveMemory memory_;
    GuestCpus cpus_;
    std::optional<KernelInfo> kernel_;
    std::vector<HookRequest> monitors_; ///< planned before there is a place for them
    sm_irq_offsets irq_offsets_{};
    std::optional<ModuleFunctions> module_functions_;
    std::optional<HookSet> hooks_;
    std::optional<UserHooks> user_hooks_;
    bool wants_modules_ = false; ///< some of the first hooks are in modules, or will be
    std::vector<std::string> notes_;
    EntryPlan entry_{};
    std::optional<Layout> layout_;
    Gva gate_;
    Gva call_gate_;
    Gpa region_gpa_;
    std::optional<RegionMapping> region_;
    std::optional<Merger> merger_;
    std::vector<const sm_slot*> slots_;
    std::optional<StraySlots> strays_;
    std::set<uint32_t> parked_;
    std::optional<Gpa> panic_cpu_;
    kvm_views_stats at_arm_{};
    std::optional<kvm_views_stats> at_detach_;
    uint64_t pause_tsc_ = 0;
    uint64_t undo_conflicts_ = 0;
};

} // namespace shadowmon
