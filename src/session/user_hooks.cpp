// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/user_hooks.h"

#include "src/hooks/hook_names.h"
#include "src/hooks/kernel_reader.h"

#include <atomic>
#include <chrono>
#include <thread>

namespace shadowmon {

namespace {

constexpr std::chrono::milliseconds between_polls{1};

Result<std::unique_ptr<HookPlanner>>
make_planner(const KernelInfo& kernel, const PhysicalMemory& memory, HookPolicy policy,
             const std::vector<std::pair<Gva, std::vector<std::byte>>>& hooked) {
    std::vector<CoveredBytes> covered;
    for (const auto& [at, original] : hooked)
        covered.push_back({at, original});
    auto code = read_kernel_code(kernel, memory, covered);
    if (!code)
        return fail(code.error());
    return std::make_unique<HookPlanner>(std::move(*code), policy, &kernel.symbols);
}

} // namespace

Status UserHooks::read_code(const Meanwhile& meanwhile) {
    Result<std::unique_ptr<HookPlanner>> planner;
    std::atomic<bool> done = false;
    std::thread reader([&, hooked = hooks_.covered()] {
        planner = make_planner(kernel_, memory_, policy_, hooked);
        done.store(true, std::memory_order_release);
    });
    while (!done.load(std::memory_order_acquire)) {
        meanwhile();
        std::this_thread::sleep_for(between_polls);
    }
    reader.join();
    if (!planner)
        return fail(planner.error().in("read the guest's kernel code"));
    planner_ = std::move(*planner);
    return {};
}

Result<UserHooks::Planned> UserHooks::plan(const std::vector<std::string>& words,
                                           std::optional<uint64_t> limit,
                                           const Meanwhile& meanwhile) {
    if (!planner_)
        SM_TRY(read_code(meanwhile));
    auto found = HookNames(*planner_, kernel_.symbols).find(words, hooks_.room());
    if (!found)
        return fail(found.error());
    Planned planned;
    planned.notes = std::move(found->notes);
    for (NamedPlace& place : found->places) {
        Gva at = place.displaced.address();
        auto gpa = kernel_.to_gpa(at);
        if (!gpa)
            return fail(gpa.error().in(place.name));
        auto bytes = planner_->code().map.bytes(at, at + hook_bytes.size());
        HookRequest request{
            std::move(place.name), std::move(place.displaced), {}, *gpa, SM_EVENT_HOOK, 0, limit};
        std::copy(bytes.begin(), bytes.end(), request.original.begin());
        planned.requests.push_back(std::move(request));
    }
    return planned;
}

Result<std::vector<uint32_t>> UserHooks::add(const HookCommand& command,
                                             std::vector<std::string>& notes,
                                             const Meanwhile& meanwhile) {
    for (bool fresh = false;; fresh = true) {
        auto planned = plan(command.hooks, command.limit, meanwhile);
        if (!planned)
            return fail(planned.error());
        // What is hooked already is no reason to refuse the rest of a pattern.
        size_t wanted = planned->requests.size();
        std::erase_if(planned->requests, [&](const HookRequest& request) {
            return hooks_.covers(request.displaced.address(), hook_bytes.size());
        });
        if (planned->requests.size() < wanted)
            planned->notes.push_back(fmt::format("{} of {} places have a hook already",
                                                 wanted - planned->requests.size(), wanted));
        auto ids = hooks_.add(views_, planned->requests);
        if (ids || ids.error().code() != ESTALE || fresh) {
            notes = std::move(planned->notes);
            return ids;
        }
        // The kernel has patched itself since its code was read.
        SM_TRY(read_code(meanwhile));
    }
}

Result<std::vector<uint32_t>> UserHooks::change(const HookCommand& command,
                                                std::vector<std::string>& notes) {
    auto ids = hooks_.select(command.hooks);
    if (!ids)
        return ids;
    Result<HookSet::Change> change = command.verb == HookCommand::Verb::enable
                                         ? hooks_.enable(views_, *ids)
                                         : hooks_.disable(views_, *ids);
    if (!change)
        return fail(change.error());
    for (uint32_t id : *ids)
        if (HookStatus status = hooks_.status(id); !status.note.empty())
            notes.push_back(fmt::format("hook {} ({}): {}", id, status.name, status.note));
    return ids;
}

HookReply UserHooks::answer(const HookCommand& command, const Meanwhile& meanwhile) {
    HookReply reply;
    auto fill = [&](const Result<std::vector<uint32_t>>& ids) {
        if (!ids) {
            reply.error = ids.error().message();
            return;
        }
        for (uint32_t id : *ids)
            reply.hooks.push_back(hooks_.status(id));
    };
    switch (command.verb) {
    case HookCommand::Verb::list:
        if (command.hooks.empty())
            reply.hooks = hooks_.list();
        else
            fill(hooks_.select(command.hooks));
        break;
    case HookCommand::Verb::add:
        fill(add(command, reply.notes, meanwhile));
        break;
    case HookCommand::Verb::enable:
    case HookCommand::Verb::disable:
        fill(change(command, reply.notes));
        break;
    case HookCommand::Verb::remove: {
        // What is told of them is the last that is known.
        auto ids = hooks_.select(command.hooks);
        fill(ids);
        if (!ids)
            break;
        if (auto removed = hooks_.remove(views_, *ids); !removed) {
            reply.hooks.clear();
            reply.error = removed.error().message();
            break;
        }
        for (HookStatus& hook : reply.hooks)
            hook.state = "gone";
        break;
    }
    }
    return reply;
}

} // namespace shadowmon
