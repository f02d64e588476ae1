// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/place_finder.h"
#include "src/session/hook_set.h"

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
class UserHooks {
  public:
    UserHooks(Views& views, const KernelInfo& kernel, const PhysicalMemory& memory, HookSet& hooks,
              HookPolicy policy)
        : views_(views), kernel_(kernel), memory_(memory), hooks_(hooks), policy_(policy),
          return_thunks_(find_return_thunks(kernel.symbols)) {}

    /// Called again and again while something takes long, so that the rings are read on.
    using Meanwhile = std::function<void()>;

    struct Planned {
        std::vector<HookRequest> requests;
        std::vector<std::string> notes;

        bool any_in_modules() const;
    };

    /// Places for the words, none of them hooked yet.
    Result<Planned> plan(const std::vector<std::string>& words, std::optional<uint64_t> limit,
                         const Meanwhile& meanwhile);

    HookReply answer(const HookCommand& command, const Meanwhile& meanwhile);

    /// Hooks the places of the words that are in modules. For a VM that is armed.
    Result<std::vector<uint32_t>> add_in_modules(const std::vector<std::string>& words,
                                                 std::optional<uint64_t> limit);

    /// A vCPU waits with a module that goes. Returns what the user should know.
    std::vector<std::string> module_goes() {
        passed_++;
        return check_modules();
    }

    /// Takes the hooks of modules out that are not there any more. Now and then: the guest may have
    /// found a way around the guard.
    std::vector<std::string> check_modules();

    /// What became of hooks whose places the guest writes to.
    struct Overwritten {
        std::vector<std::string> notes;
        std::vector<uint32_t> added; ///< in place of hooks by CALL, as INT 20 behind it
    };
    Overwritten overwritten(std::span<const Gpa> places);

  private:
    Status read_code(const Meanwhile& meanwhile);
    PlaceFinder finder(const Meanwhile& meanwhile,
                       HookNames::Calls calls = HookNames::Calls::wanted);
    Result<HookRequest> request_for(FoundPlace place, std::optional<uint64_t> limit) const;
    Result<HookRequest> beside(const HookRequest& called);
    bool is_guarded() const;
    Status guard_modules();
    std::vector<std::string> let_go(const std::vector<uint32_t>& ids, const std::string& why);
    Result<std::vector<uint32_t>> add_planned(const std::function<Result<Planned>()>& make_plan,
                                              HookReply& reply, const Meanwhile& meanwhile);
    void wait_until_left(const std::vector<HookRequest>& requests,
                         const Meanwhile& meanwhile) const;
    Result<std::vector<uint32_t>> add(const HookCommand& command, HookReply& reply,
                                      const Meanwhile& meanwhile);
    Result<std::vector<uint32_t>> change(const HookCommand& command, HookReply& reply);

    Views& views_;
    const KernelInfo& kernel_;
    const PhysicalMemory& memory_;
    HookSet& hooks_;
    HookPolicy policy_;
    std::set<Gva> return_thunks_;
    std::unique_ptr<HookPlanner> planner_; ///< kept: what is stale in it, the patches find out
    std::optional<uint32_t> guard_;        ///< id of that hook
    uint64_t passed_ = 0;                  ///< vCPUs that waited at it
};

} // namespace shadowmon
