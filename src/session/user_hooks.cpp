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
constexpr std::chrono::seconds time_to_leave{3};

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
    names_.emplace(*planner_, kernel_.symbols);
    return {};
}

Result<UserHooks::Planned> UserHooks::plan(const std::vector<std::string>& words,
                                           std::optional<uint64_t> limit,
                                           const Meanwhile& meanwhile) {
    if (!planner_)
        SM_TRY(read_code(meanwhile));
    auto found = names_->find(words, hooks_.room());
    if (!found)
        return fail(found.error());
    Planned planned;
    planned.notes = std::move(found->notes);
    for (NamedPlace& place : found->places) {
        auto request = request_for(std::move(place), limit);
        if (!request)
            return fail(request.error());
        planned.requests.push_back(std::move(*request));
    }
    return planned;
}

Result<HookRequest> UserHooks::request_for(NamedPlace place, std::optional<uint64_t> limit) const {
    Gva at = place.displaced.address();
    auto gpa = kernel_.to_gpa(at);
    if (!gpa)
        return fail(gpa.error().in(place.name));
    size_t size = std::max(place.displaced.bytes.size(), hook_size(place.displaced.gate));
    auto bytes = planner_->code().map.bytes(at, at + size);
    return HookRequest{std::move(place.name),
                       std::move(place.displaced),
                       {bytes.begin(), bytes.end()},
                       *gpa,
                       SM_EVENT_HOOK,
                       0,
                       limit};
}

/// The same function, with an INT 20 behind the NOP that the guest wants for itself.
Result<HookRequest> UserHooks::beside(const HookRequest& called) const {
    const Function* function = planner_->code().map.function(called.displaced.address());
    auto place = HookNames(*planner_, kernel_.symbols, HookNames::Calls::avoided)
                     .beginning_of(function->start, called.name);
    if (!place)
        return fail(place.error());
    return request_for(std::move(*place), called.limit);
}

UserHooks::Overwritten UserHooks::overwritten(std::span<const Gpa> places) {
    Overwritten out;
    std::vector<HookRequest> requests;
    for (Gpa gpa : places) {
        auto id = hooks_.overwritten(views_, gpa);
        if (!id)
            out.notes.push_back(id.error().message());
        if (!id || !*id)
            continue;
        const HookRequest& old = hooks_.request(**id);
        std::string what =
            fmt::format("hook {} ({}) is retired: the guest writes to its place", **id, old.name);
        if (old.displaced.gate == Gate::call) {
            if (auto request = beside(old)) {
                what += fmt::format("; it goes on at {}, less the calls in between",
                                    planner_->where(request->displaced.address()));
                requests.push_back(std::move(*request));
            } else {
                what += "; " + request.error().message();
            }
        }
        out.notes.push_back(what);
    }
    auto ids = hooks_.add(views_, requests);
    if (ids)
        out.added = std::move(*ids);
    else
        out.notes.push_back(ids.error().in("put hooks elsewhere").message());
    return out;
}

/// Hooks that were there before need a moment to leave.
void UserHooks::wait_until_left(const std::vector<HookRequest>& requests,
                                const Meanwhile& meanwhile) const {
    auto deadline = std::chrono::steady_clock::now() + time_to_leave;
    auto left = [&] {
        return std::none_of(requests.begin(), requests.end(), [&](const HookRequest& request) {
            return hooks_.leaves(request.displaced);
        });
    };
    while (!left() && std::chrono::steady_clock::now() < deadline) {
        meanwhile();
        std::this_thread::sleep_for(between_polls);
    }
}

Result<std::vector<uint32_t>> UserHooks::add(const HookCommand& command, HookReply& reply,
                                             const Meanwhile& meanwhile) {
    for (bool fresh = false;; fresh = true) {
        auto planned = plan(command.hooks, command.limit, meanwhile);
        if (!planned)
            return fail(planned.error());
        // What is hooked already is no reason to refuse the rest of a pattern.
        size_t wanted = planned->requests.size();
        std::erase_if(planned->requests, [&](const HookRequest& request) {
            return hooks_.covers(request.displaced.address(), request.original.size());
        });
        if (planned->requests.size() < wanted)
            planned->notes.push_back(fmt::format("{} of {} places have a hook already",
                                                 wanted - planned->requests.size(), wanted));
        wait_until_left(planned->requests, meanwhile);
        HookSet::Change change;
        auto ids = hooks_.add(views_, planned->requests, &change);
        if (ids || ids.error().code() != ESTALE || fresh) {
            reply.notes = std::move(planned->notes);
            reply.pause_tsc = change.pause_tsc;
            return ids;
        }
        // The kernel has patched itself since its code was read.
        SM_TRY(read_code(meanwhile));
    }
}

Result<std::vector<uint32_t>> UserHooks::change(const HookCommand& command, HookReply& reply) {
    auto ids = hooks_.select(command.hooks);
    if (!ids)
        return ids;
    Result<HookSet::Change> change = command.verb == HookCommand::Verb::enable
                                         ? hooks_.enable(views_, *ids)
                                         : hooks_.disable(views_, *ids);
    if (!change)
        return fail(change.error());
    reply.pause_tsc = change->pause_tsc;
    for (uint32_t id : *ids)
        if (HookStatus status = hooks_.status(id); !status.note.empty())
            reply.notes.push_back(fmt::format("hook {} ({}): {}", id, status.name, status.note));
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
        fill(add(command, reply, meanwhile));
        break;
    case HookCommand::Verb::enable:
    case HookCommand::Verb::disable:
        fill(change(command, reply));
        break;
    case HookCommand::Verb::remove: {
        // What is told of them is the last that is known.
        auto ids = hooks_.select(command.hooks);
        fill(ids);
        if (!ids)
            break;
        auto removed = hooks_.remove(views_, *ids);
        if (!removed) {
            reply.hooks.clear();
            reply.error = removed.error().message();
            break;
        }
        reply.pause_tsc = removed->pause_tsc;
        for (HookStatus& hook : reply.hooks)
            hook.state = "gone";
        break;
    }
    }
    return reply;
}

} // namespace shadowmon
