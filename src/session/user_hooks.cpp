// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/user_hooks.h"

#include "src/hooks/kernel_reader.h"
#include "src/session/hook_plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>

namespace shadowmon {

namespace {

constexpr std::chrono::milliseconds between_polls{1};
constexpr std::chrono::seconds time_to_leave{3};
const UserHooks::Meanwhile nothing_meanwhile = [] {};

Result<std::unique_ptr<HookPlanner>>
make_planner(const KernelInfo& kernel, const PhysicalMemory& memory, HookPolicy policy,
             const std::vector<std::pair<Gva, std::vector<std::byte>>>& hooked) {
    std::vector<CoveredBytes> covered;
    covered.reserve(hooked.size());
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

bool UserHooks::Planned::any_in_modules() const {
    return std::any_of(requests.begin(), requests.end(),
                       [](const HookRequest& request) { return request.module.has_value(); });
}

PlaceFinder UserHooks::finder(const Meanwhile& meanwhile, HookNames::Calls calls) {
    auto kernel_planner = [this, &meanwhile]() -> Result<const HookPlanner*> {
        if (!planner_)
            SM_TRY(read_code(meanwhile));
        return planner_.get();
    };
    return PlaceFinder(kernel_, memory_, policy_, hooks_.covered(), kernel_planner, return_thunks_,
                       calls);
}

Result<UserHooks::Planned> UserHooks::plan(const std::vector<std::string>& words,
                                           std::optional<uint64_t> limit,
                                           const Meanwhile& meanwhile) {
    // The guard needs a place as well.
    size_t room = hooks_.room() - (is_guarded() || hooks_.room() == 0 ? 0 : 1);
    auto found = finder(meanwhile).find(words, room);
    if (!found)
        return fail(found.error());
    Planned planned;
    planned.notes = std::move(found->notes);
    for (FoundPlace& place : found->places) {
        auto request = request_for(std::move(place), limit);
        if (!request)
            return fail(request.error());
        planned.requests.push_back(std::move(*request));
    }
    return planned;
}

Result<HookRequest> UserHooks::request_for(FoundPlace place, std::optional<uint64_t> limit) const {
    const Displaced& displaced = place.named.displaced;
    Gva at = displaced.address();
    size_t size = std::max(displaced.bytes.size(), hook_size(displaced.gate));
    const HookPlanner& planner = place.module ? *place.module->planner : *planner_;
    auto bytes = planner.code().map.bytes(at, at + size);
    HookRequest request{std::move(place.named.name),
                        std::move(place.named.displaced),
                        {bytes.begin(), bytes.end()},
                        Gpa(),
                        SM_EVENT_HOOK,
                        0,
                        limit};
    if (!place.module) {
        auto gpa = kernel_.to_gpa(at);
        if (!gpa)
            return fail(gpa.error().in(request.name));
        request.gpa = *gpa;
        return request;
    }
    // Its pages lie anywhere.
    PageTables tables = kernel_.image.tables(memory_);
    auto first = tables.walk(at);
    auto last = tables.walk(at + (size - 1));
    if (!first || !last)
        return fail((first ? last : first).error().in(request.name));
    request.gpa = first->gpa;
    if (at.page() != (at + (size - 1)).page())
        request.next_page = last->gpa.page();
    request.module = place.module->module;
    return request;
}

/// The same function, with an INT 20 behind the NOP that the guest wants for itself.
Result<HookRequest> UserHooks::beside(const HookRequest& called) {
    Gva nop = called.displaced.address();
    std::shared_ptr<const ModuleCode> module;
    const HookPlanner* planner = planner_.get();
    auto places = finder(nothing_meanwhile, HookNames::Calls::avoided);
    if (called.module) {
        auto now = read_modules(kernel_, memory_);
        if (!now)
            return fail(now.error());
        if (!is_guarded() || !still_loaded(*now, *called.module))
            return failf("module {} is not there as it was", called.module->name);
        auto code = places.code_of(*now->find(called.module->name));
        if (!code)
            return fail(code.error());
        module = *code;
        planner = &*module->planner;
    }
    const Function* function = planner->code().map.function(nop);
    if (!function)
        return failf("{:#x} is in no function any more", nop.value);
    HookNames names(*planner, module ? module->symbols.symbols : kernel_.symbols, return_thunks_,
                    HookNames::Calls::avoided);
    auto place = names.beginning_of(function->start, called.name);
    if (!place)
        return fail(place.error());
    return request_for({std::move(*place), module}, called.limit);
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
        if (*id == guard_) {
            auto notes = let_go(hooks_.in_modules(),
                                "the guest has changed the place that tells of unloading");
            out.notes.insert(out.notes.end(), notes.begin(), notes.end());
            continue;
        }
        const HookRequest& old = hooks_.request(**id);
        std::string what =
            fmt::format("hook {} ({}) is retired: the guest writes to its place", **id, old.name);
        if (old.displaced.gate == Gate::call) {
            if (auto request = beside(old)) {
                what += fmt::format("; it goes on at {:#x}, less the calls in between",
                                    request->displaced.address().value);
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

bool UserHooks::is_guarded() const { return guard_ && hooks_.is_on(*guard_); }

Status UserHooks::guard_modules() {
    if (is_guarded())
        return {};
    auto request = plan_module_guard(kernel_, memory_, hooks_.covered());
    if (!request)
        return fail(request.error());
    // One that the guest has ended.
    if (guard_)
        if (auto removed = hooks_.remove(views_, {&*guard_, 1}); !removed)
            return fail(removed.error());
    guard_.reset();
    auto ids = hooks_.add(views_, {&*request, 1});
    if (!ids)
        return fail(ids.error().in("see that a module is unloaded"));
    guard_ = ids->front();
    return {};
}

std::vector<std::string> UserHooks::let_go(const std::vector<uint32_t>& ids,
                                           const std::string& why) {
    if (ids.empty())
        return {};
    // Some may have been retired before.
    auto fresh = std::count_if(ids.begin(), ids.end(),
                               [&](uint32_t id) { return hooks_.status(id).state != "retired"; });
    auto gone = hooks_.let_modules_go(views_, ids, why);
    if (!gone)
        return {gone.error().in("take the hooks of a module out").message()};
    return {fmt::format("{}: {} {} retired", why, fresh, fresh == 1 ? "hook is" : "hooks are")};
}

std::vector<std::string> UserHooks::check_modules() {
    // The list may change while it is read; who is missing once may be there at another look.
    constexpr unsigned looks = 3;
    std::vector<uint32_t> missing = hooks_.in_modules();
    std::string why;
    for (unsigned i = 0; i < looks && !missing.empty(); i++) {
        auto now = read_modules(kernel_, memory_);
        why = now ? "" : now.error().message();
        if (now)
            std::erase_if(missing, [&](uint32_t id) {
                return still_loaded(*now, *hooks_.request(id).module);
            });
    }
    std::map<std::string, std::vector<uint32_t>> modules;
    for (uint32_t id : missing)
        modules[hooks_.request(id).module->name].push_back(id);
    std::vector<std::string> notes;
    for (const auto& [name, ids] : modules) {
        auto some = let_go(ids, why.empty() ? fmt::format("module {} was unloaded", name) : why);
        notes.insert(notes.end(), some.begin(), some.end());
    }
    return notes;
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

/// Once more with fresh eyes where the guest's code, or its modules, have changed since the plan.
Result<std::vector<uint32_t>>
UserHooks::add_planned(const std::function<Result<Planned>()>& make_plan, HookReply& reply,
                       const Meanwhile& meanwhile) {
    constexpr unsigned most_tries = 8;
    bool reread = false;
    for (unsigned tries = 0; tries < most_tries; tries++) {
        const uint64_t passed = passed_;
        const bool guarded = is_guarded();
        auto planned = make_plan();
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
        if (planned->any_in_modules()) {
            SM_TRY(guard_modules());
            if (!guarded || passed != passed_)
                continue;
        }
        HookSet::Change change;
        auto ids = hooks_.add(views_, planned->requests, &change);
        if (ids || ids.error().code() != ESTALE || reread) {
            reply.notes = std::move(planned->notes);
            reply.pause_tsc = change.pause_tsc;
            return ids;
        }
        // The kernel has patched itself since its code was read.
        reread = true;
        if (planner_)
            SM_TRY(read_code(meanwhile));
    }
    return failf("the guest loads and unloads modules all the time; try again later");
}

Result<std::vector<uint32_t>> UserHooks::add(const HookCommand& command, HookReply& reply,
                                             const Meanwhile& meanwhile) {
    return add_planned([&] { return plan(command.hooks, command.limit, meanwhile); }, reply,
                       meanwhile);
}

Result<std::vector<uint32_t>> UserHooks::add_in_modules(const std::vector<std::string>& words,
                                                        std::optional<uint64_t> limit) {
    HookReply reply; // plan() has given the notes before
    auto only_modules = [&]() -> Result<Planned> {
        auto planned = plan(words, limit, nothing_meanwhile);
        if (planned)
            std::erase_if(planned->requests, [](const auto& request) { return !request.module; });
        return planned;
    };
    return add_planned(only_modules, reply, nothing_meanwhile);
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
