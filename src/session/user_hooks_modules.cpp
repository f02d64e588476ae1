// SPDX-License-Identifier: GPL-2.0-or-later
// UserHooks, as far as modules come and go.
#include "src/session/user_hooks.h"

#include "src/session/hook_plan.h"

#include <algorithm>
#include <map>

namespace shadowmon {

namespace {

const UserHooks::Meanwhile nothing_meanwhile = [] {};

} // namespace

bool UserHooks::is_guarded() const { return guard_ && hooks_.is_on(*guard_); }

/// Guards and what else is there need places as well.
size_t UserHooks::room() const {
    size_t guards = (is_guarded() ? 0 : 1) + (is_watched() ? 0 : 1);
    return hooks_.room() - std::min(hooks_.room(), guards);
}

Status UserHooks::put_guard(std::optional<uint32_t>& guard, const Result<HookRequest>& request,
                            const char* step) {
    if (!request)
        return fail(request.error());
    // One that the guest has ended.
    if (guard)
        if (auto removed = hooks_.remove(views_, {&*guard, 1}); !removed)
            return fail(removed.error());
    guard.reset();
    auto ids = hooks_.add(views_, {&*request, 1});
    if (!ids)
        return fail(ids.error().in(step));
    guard = ids->front();
    return {};
}

Status UserHooks::guard_modules() {
    if (is_guarded())
        return {};
    return put_guard(guard_, plan_module_guard(kernel_, memory_, hooks_.covered()),
                     "see that a module is unloaded");
}

/// Without it pending hooks come later, but they come.
void UserHooks::watch_loading(std::vector<std::string>& notes) {
    if (is_watched())
        return;
    auto status = put_guard(loading_guard_, plan_loading_guard(kernel_, memory_, hooks_.covered()),
                            "see that a module is loaded");
    if (!status)
        notes.push_back(status.error().message() + "; pending hooks come up to a second late");
}

/// Hooks that were named with their module wait for it from then on, the others are only listed.
std::vector<std::string> UserHooks::let_go(const std::vector<uint32_t>& ids,
                                           const std::string& why) {
    if (ids.empty())
        return {};
    std::vector<uint32_t> back;
    std::map<std::string, PendingHooks::Hook> pending;
    size_t retired = 0; // some may have been before
    for (uint32_t id : ids) {
        const HookRequest& request = hooks_.request(id);
        const bool off = hooks_.status(id).state == "off";
        // A name may be one that means others, too: it is the guest's.
        if (request.comes_back && request.name.find_first_of("*?[") == std::string::npos) {
            back.push_back(id);
            auto& hook =
                pending.try_emplace(request.name, PendingHooks::Hook{request.name}).first->second;
            hook.limit = request.limit;
            hook.enabled = !off;
        } else {
            retired += hooks_.status(id).state != "retired";
        }
    }
    auto gone = hooks_.let_modules_go(views_, ids, why);
    if (!gone)
        return {gone.error().in("take the hooks of a module out").message()};
    if (auto removed = hooks_.remove(views_, back); !removed)
        return {removed.error().in("take the hooks of a module out").message()};
    for (auto& [name, hook] : pending)
        pending_.add(std::move(hook));
    std::string text = why;
    if (retired > 0)
        text += fmt::format("{} {} {} retired", text == why ? ":" : ",", retired,
                            retired == 1 ? "hook is" : "hooks are");
    if (!pending.empty())
        text += fmt::format("{} {} {} pending", text == why ? ":" : ",", pending.size(),
                            pending.size() == 1 ? "hook is" : "hooks are");
    return {text};
}

void UserHooks::take_out_gone(std::vector<std::string>& notes) {
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
    for (const auto& [name, ids] : modules) {
        auto some = let_go(ids, why.empty() ? fmt::format("module {} was unloaded", name) : why);
        notes.insert(notes.end(), some.begin(), some.end());
    }
}

UserHooks::Changed UserHooks::check_modules() {
    Changed out;
    take_out_gone(out.notes);
    put_pending_in(Moment::any, out);
    return out;
}

UserHooks::Changed UserHooks::module_passes() {
    passed_++;
    Changed out;
    take_out_gone(out.notes);
    put_pending_in(Moment::module_waits, out);
    return out;
}

void UserHooks::refuse(uint32_t pending, const GuestModule& module, const std::string& why,
                       std::vector<std::string>& notes) {
    PendingHooks::Hook& hook = pending_.hooks().at(pending);
    hook.refusal = why;
    hook.refused_in = module;
    notes.push_back(fmt::format("{} stays pending: {}", hook.word, why));
}

bool UserHooks::is_new(const HookRequest& request, const std::vector<HookRequest>& others) const {
    Gva at = request.displaced.address();
    return !hooks_.covers(at, request.original.size()) &&
           std::none_of(others.begin(), others.end(),
                        [&](const HookRequest& other) { return other.displaced.address() == at; });
}

/// What can be put in now. A place that another hook is leaving can have none yet: later.
std::vector<UserHooks::Arrived> UserHooks::plan_pending(Moment moment,
                                                        std::vector<std::string>& notes) {
    std::vector<Arrived> all;
    std::vector<HookRequest> together;
    auto places = finder(nothing_meanwhile);
    if (moment == Moment::module_waits)
        places.take_coming_modules();
    auto now = places.modules();
    if (!now)
        return all;
    for (auto& [id, hook] : pending_.hooks()) {
        const GuestModule* module = (*now)->find(hook.module());
        if (!module || (module->state != GuestModule::State::live &&
                        module->state != GuestModule::State::coming)) {
            hook.refused_in.reset(); // it may come otherwise
            hook.refusal.clear();
            continue;
        }
        if (!hook.enabled || !places.is_there(*module) ||
            (hook.refused_in && same_module(*hook.refused_in, *module)))
            continue;
        auto found = places.find({hook.word}, room() - std::min(room(), together.size()));
        Arrived one{id, *module, {}, {}};
        std::optional<Error> error;
        if (!found)
            error = found.error();
        for (size_t i = 0; found && !error && i < found->places.size(); i++) {
            auto request = request_for(std::move(found->places[i]), hook.limit);
            if (!request)
                error = request.error();
            else if (is_new(*request, together))
                one.requests.push_back(std::move(*request));
        }
        if (error) {
            refuse(id, *module, error->message(), notes);
            continue;
        }
        if (std::any_of(one.requests.begin(), one.requests.end(),
                        [&](const auto& request) { return hooks_.leaves(request.displaced); }))
            continue;
        one.notes = std::move(found->notes);
        together.insert(together.end(), one.requests.begin(), one.requests.end());
        all.push_back(std::move(one));
    }
    return all;
}

/// All or none of them.
Status UserHooks::put_in(std::span<const Arrived> arrived, Changed& out) {
    std::vector<HookRequest> requests;
    for (const Arrived& one : arrived)
        requests.insert(requests.end(), one.requests.begin(), one.requests.end());
    auto ids = hooks_.add(views_, requests);
    if (!ids)
        return fail(ids.error());
    out.added.insert(out.added.end(), ids->begin(), ids->end());
    std::map<std::string, size_t> modules;
    for (const Arrived& one : arrived) {
        pending_.remove(one.pending);
        out.notes.insert(out.notes.end(), one.notes.begin(), one.notes.end());
        modules[one.module.name] += one.requests.size();
    }
    for (const auto& [name, count] : modules)
        out.notes.push_back(fmt::format("module {} was loaded: {} {} in place", name, count,
                                        count == 1 ? "hook is" : "hooks are"));
    return {};
}

void UserHooks::put_pending_in(Moment moment, Changed& out) {
    // A guard is not put in while a vCPU waits: the kernel's code may just be read.
    if (!pending_.any_enabled() || (moment == Moment::module_waits && !is_guarded()))
        return;
    auto arrived = plan_pending(moment, out.notes);
    if (arrived.empty())
        return;
    if (!is_guarded()) {
        auto status = guard_modules();
        // What was there before it may have gone.
        if (status)
            return put_pending_in(moment, out);
        for (const Arrived& one : arrived)
            refuse(one.pending, one.module, status.error().message(), out.notes);
        return;
    }
    if (put_in(arrived, out))
        return;
    // One of them keeps nobody else away.
    for (const Arrived& one : arrived)
        if (auto status = put_in({&one, 1}, out); !status)
            refuse(one.pending, one.module, status.error().message(), out.notes);
}

} // namespace shadowmon
