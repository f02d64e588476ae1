// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/hook_names.h"
#include "src/session/hook_set.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// The hooks that the user names: finds their places in the guest's kernel and answers what is
/// asked of them while the trace runs. Borrows all it is given. Reading the kernel's code takes a
/// second on the first use; it is done by a thread of its own meanwhile.
class UserHooks {
  public:
    UserHooks(Views& views, const KernelInfo& kernel, const PhysicalMemory& memory, HookSet& hooks,
              HookPolicy policy)
        : views_(views), kernel_(kernel), memory_(memory), hooks_(hooks), policy_(policy) {}

    /// Called again and again while something takes long, so that the rings are read on.
    using Meanwhile = std::function<void()>;

    struct Planned {
        std::vector<HookRequest> requests;
        std::vector<std::string> notes;
    };

    /// Places for the words, none of them hooked yet.
    Result<Planned> plan(const std::vector<std::string>& words, std::optional<uint64_t> limit,
                         const Meanwhile& meanwhile);

    HookReply answer(const HookCommand& command, const Meanwhile& meanwhile);

    /// What became of hooks whose places the guest writes to.
    struct Overwritten {
        std::vector<std::string> notes;
        std::vector<uint32_t> added; ///< in place of hooks by CALL, as INT 20 behind it
    };
    Overwritten overwritten(std::span<const Gpa> places);

  private:
    Status read_code(const Meanwhile& meanwhile);
    Result<HookRequest> request_for(NamedPlace place, std::optional<uint64_t> limit) const;
    Result<HookRequest> beside(const HookRequest& called) const;
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
    std::unique_ptr<HookPlanner> planner_; ///< kept: what is stale in it, the patches find out
    std::optional<HookNames> names_;       ///< of that planner
};

} // namespace shadowmon
