// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/place_finder.h"
#include "src/session/hook_set.h"
#include "src/session/pending_hooks.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// The hooks that the user names: finds their places in the guest's kernel and its modules and
/// answers what is asked of them while the trace runs. Borrows all it is given. Reading the
/// kernel's code takes a second on the first use; it is done by a thread of its own meanwhile. A
/// module is read whenever it is named: what was there before may be another one.
///
/// Memory of a module may become anything else at any time. So that no byte of a hook is written
/// to what is not the module's any more, and none stays in it, nobody frees a module but with a
/// vCPU that waits (the guard) until this has seen that the module goes and taken its hooks out.
/// What was planned is written only if no vCPU has waited so since, and in a module that was live
/// when the guard was there already.
///
/// A hook that was named with its module waits (PendingHooks) until the module is there, and again
/// when it has gone. A second guard has the vCPU wait that is about to initialize a module.
class UserHooks {
  public:
    UserHooks(Views& views, const KernelInfo& kernel, const PhysicalMemory& memory, HookSet& hooks,
              HookPolicy policy)
        : views_(views), kernel_(kernel), memory_(memory), hooks_(hooks), policy_(policy),
          return_thunks_(find_return_thunks(kernel.symbols)), pending_(hooks.capacity()) {}

    /// Called again and again while something takes long, so that the rings are read on.
    using Meanwhile = std::function<void()>;

    struct Planned {
        std::vector<HookRequest> requests;
        std::vector<std::string> waiting; ///< words whose module is not there
        std::vector<std::string> notes;

        bool concerns_modules() const;
        bool waits_for_modules() const; ///< now, or once theirs has gone
    };

    /// Places for the words, none of them hooked yet.
    Result<Planned> plan(const std::vector<std::string>& words, std::optional<uint64_t> limit,
                         const Meanwhile& meanwhile);

    HookReply answer(const HookCommand& command, const Meanwhile& meanwhile);

    /// Hooks the places of the words that are in modules, and lets wait what has none yet. For a VM
    /// that is armed.
    Result<std::vector<uint32_t>> add_in_modules(const std::vector<std::string>& words,
                                                 std::optional<uint64_t> limit);

    /// What became of hooks because of the guest.
    struct Changed {
        std::vector<std::string> notes; ///< what the user should know
        std::vector<uint32_t> added;
    };

    /// A vCPU waits with a module that comes or goes.
    Changed module_passes();

    /// Takes the hooks of modules out that are not there any more, and puts pending ones in. Now
    /// and then: the guest may have found a way around the guards.
    Changed check_modules();

    /// The guest writes to the places of hooks. In place of those by CALL new ones are added, as
    /// INT 20 behind it.
    Changed overwritten(std::span<const Gpa> places);

    /// All hooks, pending ones last.
    std::vector<HookStatus> list() const;
    HookStatus status(uint32_t id) const;
    bool is_pending(uint32_t id) const { return pending_.has(id); }

  private:
    Status read_code(const Meanwhile& meanwhile);
    PlaceFinder finder(const Meanwhile& meanwhile,
                       HookNames::Calls calls = HookNames::Calls::wanted);
    Result<HookRequest> request_for(FoundPlace place, std::optional<uint64_t> limit) const;
    Result<HookRequest> beside(const HookRequest& called);
    void put_beside(std::span<const HookRequest> requests, Changed& out);
    bool is_guarded() const;
    bool is_watched() const { return loading_guard_ && hooks_.is_on(*loading_guard_); }
    Status guard_modules();
    Status put_guard(std::optional<uint32_t>& guard, const Result<HookRequest>& request,
                     const char* step);
    void watch_loading(std::vector<std::string>& notes);
    void take_out_gone(std::vector<std::string>& notes);
    enum class Moment { module_waits, any };
    void put_pending_in(Moment moment, Changed& out);
    /// A pending hook whose module has come.
    struct Arrived {
        uint32_t pending;
        GuestModule module;
        std::vector<HookRequest> requests;
        std::vector<std::string> notes;
    };
    std::vector<Arrived> plan_pending(Moment moment, std::vector<std::string>& notes);
    Status put_in(std::span<const Arrived> arrived, Changed& out);
    bool is_new(const HookRequest& request, const std::vector<HookRequest>& others) const;
    void refuse(uint32_t pending, const GuestModule& module, const std::string& why,
                std::vector<std::string>& notes);
    size_t room() const;
    Result<std::vector<uint32_t>> select(const std::vector<std::string>& words) const;
    std::vector<std::string> let_go(const std::vector<uint32_t>& ids, const std::string& why);
    Result<std::vector<uint32_t>> add_planned(const std::function<Result<Planned>()>& make_plan,
                                              std::optional<uint64_t> limit, HookReply& reply,
                                              const Meanwhile& meanwhile);
    void wait_until_left(const std::vector<HookRequest>& requests,
                         const Meanwhile& meanwhile) const;
    Result<std::vector<uint32_t>> add(const HookCommand& command, HookReply& reply,
                                      const Meanwhile& meanwhile);
    Result<std::vector<uint32_t>> change(const HookCommand& command, HookReply& reply);
    Result<std::vector<uint32_t>> remove(const HookCommand& command, HookReply& reply);

    Views& views_;
    const KernelInfo& kernel_;
    const PhysicalMemory& memory_;
    HookSet& hooks_;
    HookPolicy policy_;
    std::set<Gva> return_thunks_;
    std::unique_ptr<HookPlanner> planner_; ///< kept: what is stale in it, the patches find out
    std::optional<uint32_t> guard_;        ///< id of that hook
    std::optional<uint32_t> loading_guard_;
    uint64_t passed_ = 0; ///< vCPUs that waited at them
    PendingHooks pending_;
};

} // namespace shadowmon
