// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/user_hooks.h"

#include "src/hooks/kernel_reader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <set>
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

bool UserHooks::Planned::concerns_modules() const {
    return !waiting.empty() ||
           std::any_of(requests.begin(), requests.end(),
                       [](const HookRequest& request) { return request.module.has_value(); });
}

bool UserHooks::Planned::waits_for_modules() const {
    return !waiting.empty() ||
           std::any_of(requests.begin(), requests.end(),
                       [](const HookRequest& request) { return request.comes_back; });
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
    auto found = finder(meanwhile).find(words, room());
    if (!found)
        return fail(found.error());
    size_t most_waiting = hooks_.capacity();
    if (found->waiting.size() > most_waiting - std::min(most_waiting, pending_.size()))
        return failf("{} hooks are pending already; {} are possible", pending_.size(),
                     most_waiting);
    Planned planned;
    planned.waiting = std::move(found->waiting);
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
    request.comes_back = place.names_module;
    return request;
}

/// The same function, with an INT 20 beside the NOP that the guest wants for itself.
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
    return request_for({std::move(*place), module, called.comes_back}, called.limit);
}

UserHooks::Changed UserHooks::overwritten(std::span<const Gpa> places) {
    Changed out;
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
        if (*id == loading_guard_) {
            out.notes.emplace_back("the guest has changed the place that tells of loading: hooks "
                                   "in modules that it loads now come up to a second late");
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
    put_beside(requests, out);
    return out;
}

/// All at once; if that fails, all that can be.
void UserHooks::put_beside(std::span<const HookRequest> requests, Changed& out) {
    auto ids = hooks_.add(views_, requests);
    if (ids) {
        out.added.insert(out.added.end(), ids->begin(), ids->end());
    } else if (requests.size() > 1) {
        for (const HookRequest& request : requests)
            put_beside({&request, 1}, out);
    } else {
        out.notes.push_back(
            ids.error().in(fmt::format("put hook {} elsewhere", requests.front().name)).message());
    }
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
UserHooks::add_planned(const std::function<Result<Planned>()>& make_plan,
                       std::optional<uint64_t> limit, HookReply& reply,
                       const Meanwhile& meanwhile) {
    constexpr unsigned most_tries = 8;
    bool reread = false;
    for (unsigned tries = 0; tries < most_tries; tries++) {
        const uint64_t passed = passed_;
        const bool guarded = is_guarded();
        const bool watched = is_watched();
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
        if (planned->concerns_modules()) {
            SM_TRY(guard_modules());
            if (planned->waits_for_modules())
                watch_loading(planned->notes);
            if (!guarded || watched != is_watched() || passed != passed_)
                continue;
        }
        HookSet::Change change;
        auto ids = hooks_.add(views_, planned->requests, &change);
        if (ids || ids.error().code() != ESTALE || reread) {
            for (size_t i = 0; ids && i < planned->waiting.size(); i++)
                ids->push_back(pending_.add({planned->waiting[i], limit}));
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
    return add_planned([&] { return plan(command.hooks, command.limit, meanwhile); }, command.limit,
                       reply, meanwhile);
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
    return add_planned(only_modules, limit, reply, nothing_meanwhile);
}

Result<std::vector<uint32_t>> UserHooks::select(const std::vector<std::string>& words) const {
    std::set<uint32_t> chosen;
    for (const std::string& word : words) {
        auto pending = pending_.select(word);
        auto ids = hooks_.select({word});
        if (!ids && pending.empty())
            return ids;
        chosen.insert(pending.begin(), pending.end());
        if (ids)
            chosen.insert(ids->begin(), ids->end());
    }
    return std::vector<uint32_t>(chosen.begin(), chosen.end());
}

Result<std::vector<uint32_t>> UserHooks::change(const HookCommand& command, HookReply& reply) {
    auto ids = select(command.hooks);
    if (!ids)
        return ids;
    const bool enable = command.verb == HookCommand::Verb::enable;
    std::vector<uint32_t> planned, waiting;
    std::partition_copy(ids->begin(), ids->end(), std::back_inserter(waiting),
                        std::back_inserter(planned), [&](uint32_t id) { return is_pending(id); });
    Result<HookSet::Change> change =
        enable ? hooks_.enable(views_, planned) : hooks_.disable(views_, planned);
    if (!change)
        return fail(change.error());
    reply.pause_tsc = change->pause_tsc;
    for (uint32_t id : waiting) {
        PendingHooks::Hook& hook = pending_.hooks().at(id);
        hook.enabled = enable;
        hook.refused_in.reset();
    }
    if (enable && !waiting.empty()) {
        // Their module may be there.
        Changed changed;
        put_pending_in(Moment::any, changed);
        reply.notes = std::move(changed.notes);
        std::erase_if(*ids,
                      [&](uint32_t id) { return id >= hooks_.capacity() && !is_pending(id); });
        ids->insert(ids->end(), changed.added.begin(), changed.added.end());
    }
    for (uint32_t id : *ids)
        if (HookStatus now = status(id); !now.note.empty())
            reply.notes.push_back(fmt::format("hook {} ({}): {}", id, now.name, now.note));
    return ids;
}

/// Fills the reply: what is told of them is the last that is known.
Result<std::vector<uint32_t>> UserHooks::remove(const HookCommand& command, HookReply& reply) {
    auto ids = select(command.hooks);
    if (!ids)
        return ids;
    std::vector<HookStatus> last;
    for (uint32_t id : *ids)
        last.push_back(status(id));
    std::vector<uint32_t> planned;
    std::copy_if(ids->begin(), ids->end(), std::back_inserter(planned),
                 [&](uint32_t id) { return !is_pending(id); });
    auto removed = hooks_.remove(views_, planned);
    if (!removed)
        return fail(removed.error());
    for (uint32_t id : *ids)
        pending_.remove(id);
    reply.pause_tsc = removed->pause_tsc;
    reply.hooks = std::move(last);
    for (HookStatus& hook : reply.hooks)
        hook.state = "gone";
    return ids;
}

HookStatus UserHooks::status(uint32_t id) const {
    return is_pending(id) ? pending_.status(id) : hooks_.status(id);
}

std::vector<HookStatus> UserHooks::list() const {
    auto all = hooks_.list();
    auto pending = pending_.list();
    std::move(pending.begin(), pending.end(), std::back_inserter(all));
    return all;
}

HookReply UserHooks::answer(const HookCommand& command, const Meanwhile& meanwhile) {
    HookReply reply;
    auto fill = [&](const Result<std::vector<uint32_t>>& ids) {
        if (!ids) {
            reply.error = ids.error().message();
            return;
        }
        for (uint32_t id : *ids)
            reply.hooks.push_back(status(id));
    };
    switch (command.verb) {
    case HookCommand::Verb::list:
        if (command.hooks.empty())
            reply.hooks = list();
        else
            fill(select(command.hooks));
        break;
    case HookCommand::Verb::add:
        fill(add(command, reply, meanwhile));
        break;
    case HookCommand::Verb::enable:
    case HookCommand::Verb::disable:
        fill(change(command, reply));
        break;
    case HookCommand::Verb::remove:
        if (auto removed = remove(command, reply); !removed)
            reply.error = removed.error().message();
        break;
    }
    return reply;
}

} // namespace shadowmon
