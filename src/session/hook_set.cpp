// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/hook_set.h"

#include <algorithm>
#include <charconv>
#include <fnmatch.h>
#include <set>

namespace shadowmon {

namespace {

constexpr uint64_t ticks_per_khz_second = 1000;
/// Limits are kept per tenth of a second where that is a whole number of events, so that a burst
/// at the beginning of a second does not use all of it up.
constexpr uint64_t windows_per_second = 10;
constexpr uint64_t fine_limit = 100;

constexpr const char* gate_name = "int20";

struct Window {
    uint32_t events;
    uint64_t ticks;
};

Result<Window> window_of(uint64_t limit, uint64_t tsc_khz) {
    uint64_t parts = limit >= fine_limit ? windows_per_second : 1;
    uint64_t events = limit / parts;
    if (events == 0 || events > SM_LIMIT_MAX_EVENTS)
        return failf("a limit of {} events per second; 1 to {} are possible", limit,
                     uint64_t{SM_LIMIT_MAX_EVENTS} * windows_per_second);
    return Window{static_cast<uint32_t>(events), tsc_khz * ticks_per_khz_second / parts};
}

std::optional<uint32_t> as_id(const std::string& word) {
    uint32_t id = 0;
    const char* end = word.data() + word.size();
    auto [stop, error] = std::from_chars(word.data(), end, id);
    return error == std::errc() && stop == end ? std::optional(id) : std::nullopt;
}

bool is_pattern(const std::string& word) { return word.find_first_of("*?[") != std::string::npos; }

} // namespace

std::optional<uint32_t> HookSet::take_id() {
    if (next_id_ < parts_.table.capacity())
        return next_id_++;
    if (free_ids_.empty())
        return std::nullopt;
    uint32_t id = free_ids_.front();
    free_ids_.pop_front();
    return id;
}

Status HookSet::stage_one(const HookRequest& request, std::vector<uint32_t>& ids) {
    Gva at = request.displaced.address();
    if (covers(at, std::max<size_t>(request.displaced.bytes.size(), hook_bytes.size())))
        return failf("{} at {:#x}: there is a hook already", request.name, at.value);
    auto resume = parts_.code.add(request.displaced);
    if (!resume)
        return fail(resume.error().in(request.name));
    auto id = take_id();
    if (!id) {
        parts_.code.free(*resume);
        return failf("{}: no room, {} hooks are possible in one trace", request.name,
                     parts_.table.capacity());
    }
    sm_hook hook{};
    hook.rip = (at + hook_bytes.size()).value;
    hook.id = *id;
    hook.type = request.type;
    hook.flags = request.flags;
    hook.resume_if1 = resume->if1.value;
    hook.resume_if0 = resume->if0.value;
    Status status;
    if (request.limit) {
        hook.flags |= SM_HOOK_LIMITED;
        auto window = window_of(*request.limit, parts_.tsc_khz);
        status =
            window ? parts_.limits.set(*id, window->events, window->ticks) : fail(window.error());
    }
    parts_.counters.restart(*id);
    if (status)
        status = parts_.table.insert(hook);
    if (!status) {
        parts_.code.free(*resume);
        free_ids_.push_back(*id);
        return fail(status.error().in(request.name));
    }
    hooks_[*id] = {request, State::staged, {}, *resume};
    ids.push_back(*id);
    return {};
}

Result<std::vector<uint32_t>> HookSet::stage(std::span<const HookRequest> requests) {
    std::vector<uint32_t> ids;
    for (const HookRequest& request : requests) {
        if (auto status = stage_one(request, ids); !status) {
            unstage(ids);
            return fail(status.error());
        }
    }
    return ids;
}

void HookSet::let_go(std::map<uint32_t, Hook>::iterator hook) {
    leaving_.push_back(
        {hook->first, (hook->second.at() + hook_bytes.size()).value, hook->second.resume});
    hooks_.erase(hook);
}

void HookSet::unstage(std::span<const uint32_t> ids) {
    for (uint32_t id : ids)
        if (auto hook = hooks_.find(id); hook != hooks_.end())
            let_go(hook);
}

kvm_views_patch HookSet::patch_of(const Hook& hook, uint32_t flags) const {
    const auto& expected = flags & KVM_VIEWS_PATCH_REVERT ? hook_bytes : hook.request.original;
    return make_patch(hook.request.gpa, expected, hook_bytes, KVM_VIEWS_PATCH_HOOK | flags);
}

std::vector<kvm_views_patch> HookSet::patches(std::span<const uint32_t> ids) const {
    std::vector<kvm_views_patch> patches;
    for (uint32_t id : ids)
        patches.push_back(patch_of(hooks_.at(id), 0));
    return patches;
}

void HookSet::armed(std::span<const uint32_t> ids) {
    for (uint32_t id : ids)
        hooks_.at(id).state = State::on;
}

Result<std::vector<uint32_t>> HookSet::add(Views& views, std::span<const HookRequest> requests,
                                           Change* change) {
    auto ids = stage(requests);
    if (!ids || ids->empty())
        return ids;
    uint32_t failed = 0;
    auto patched = views.patch(patches(*ids), &failed);
    if (!patched) {
        std::string name = failed < requests.size() ? requests[failed].name : "";
        unstage(*ids);
        return fail(patched.error().in("hook " + name));
    }
    armed(*ids);
    if (change)
        change->pause_tsc = patched->pause_tsc;
    return ids;
}

void HookSet::retire(Hook& hook, std::string note) {
    hook.state = State::retired;
    hook.note = std::move(note);
}

/// Patches those hooks that are in state `from`. One that the guest has changed is retired, and the
/// others are tried again without it.
Result<HookSet::Change> HookSet::patch(Views& views, std::vector<uint32_t> ids, State from,
                                       State to, uint32_t flags) {
    std::erase_if(ids, [&](uint32_t id) { return hooks_.at(id).state != from; });
    Change change;
    while (!ids.empty()) {
        size_t batch = std::min<size_t>(ids.size(), KVM_VIEWS_MAX_PATCHES);
        std::vector<kvm_views_patch> patches;
        for (size_t i = 0; i < batch; i++)
            patches.push_back(patch_of(hooks_.at(ids[i]), flags));
        uint32_t failed = 0;
        auto patched = views.patch(patches, &failed);
        if (!patched && patched.error().code() == ESTALE && failed < batch) {
            retire(hooks_.at(ids[failed]), "the guest has changed its code there");
            ids.erase(ids.begin() + failed);
            continue;
        }
        if (!patched)
            return fail(patched.error());
        change.pause_tsc += patched->pause_tsc;
        for (size_t i = 0; i < batch; i++)
            hooks_.at(ids[i]).state = to;
        ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(batch));
    }
    return change;
}

Result<HookSet::Change> HookSet::disable(Views& views, std::span<const uint32_t> ids) {
    return patch(views, {ids.begin(), ids.end()}, State::on, State::off, KVM_VIEWS_PATCH_REVERT);
}

Result<HookSet::Change> HookSet::enable(Views& views, std::span<const uint32_t> ids) {
    return patch(views, {ids.begin(), ids.end()}, State::off, State::on, 0);
}

Result<HookSet::Change> HookSet::remove(Views& views, std::span<const uint32_t> ids) {
    auto change = disable(views, ids);
    if (change)
        unstage(ids);
    return change;
}

std::optional<std::string> HookSet::overwritten(Gpa gpa) {
    for (auto& [id, hook] : hooks_) {
        if (hook.state != State::on || gpa < hook.request.gpa ||
            gpa >= hook.request.gpa + hook_bytes.size())
            continue;
        retire(hook, "the guest has changed its code there");
        return fmt::format("hook {} ({}) is retired: the guest has changed its code there", id,
                           hook.request.name);
    }
    return std::nullopt;
}

void HookSet::tick(Views& views, bool rings_empty) {
    if (rings_empty) {
        free_ids_.insert(free_ids_.end(), spent_.begin(), spent_.end());
        spent_.clear();
    }
    if (grace_ && grace_->over()) {
        grace_.reset();
        parts_.table.reclaim();
        for (const Leaver& one : unlisted_) {
            parts_.code.free(one.resume);
            spent_.push_back(one.id);
        }
        unlisted_.clear();
    }
    // A vCPU that is still inside, or was not asked in time: with the next tick.
    if (grace_ || leaving_.empty() || !views.quiesce())
        return;
    for (const Leaver& one : leaving_)
        parts_.table.remove(one.rip);
    unlisted_ = std::exchange(leaving_, {});
    grace_.emplace(parts_.slots);
}

HookStatus HookSet::status(uint32_t id) const {
    const Hook& hook = hooks_.at(id);
    HookCounts counts = parts_.counters.read(id);
    HookStatus status;
    status.id = id;
    status.name = hook.request.name;
    status.address = hook.at().value;
    status.gate = gate_name;
    status.state = hook.state == State::on ? "on" : hook.state == State::off ? "off" : "retired";
    status.note = hook.note;
    status.recorded = counts.recorded;
    status.lost = counts.lost;
    status.limited = counts.limited;
    status.limit = hook.request.limit;
    return status;
}

std::vector<HookStatus> HookSet::list() const {
    std::vector<HookStatus> all;
    for (const auto& [id, hook] : hooks_)
        all.push_back(status(id));
    return all;
}

Result<std::vector<uint32_t>> HookSet::select(const std::vector<std::string>& words) const {
    std::set<uint32_t> chosen;
    for (const std::string& word : words) {
        size_t before = chosen.size();
        bool known = false;
        auto wanted = as_id(word);
        bool pattern = is_pattern(word);
        for (const auto& [id, hook] : hooks_) {
            const std::string& name = hook.request.name;
            if (wanted ? id == *wanted
                       : name == word || (pattern && fnmatch(word.c_str(), name.c_str(), 0) == 0)) {
                chosen.insert(id);
                known = true;
            }
        }
        if (!known && chosen.size() == before)
            return failf("there is no hook \"{}\" (`shadowmon hooks list` shows those there are)",
                         word);
    }
    return std::vector<uint32_t>(chosen.begin(), chosen.end());
}

bool HookSet::covers(Gva at, size_t size) const {
    return std::any_of(hooks_.begin(), hooks_.end(), [&](const auto& entry) {
        return entry.second.at() < at + size && at < entry.second.end();
    });
}

std::vector<std::pair<Gva, std::vector<std::byte>>> HookSet::covered() const {
    std::vector<std::pair<Gva, std::vector<std::byte>>> all;
    for (const auto& [id, hook] : hooks_) {
        const auto& bytes = hook.request.original;
        if (hook.state == State::on)
            all.emplace_back(hook.at(), std::vector<std::byte>(bytes.begin(), bytes.end()));
    }
    return all;
}

std::vector<uint32_t> HookSet::all() const {
    std::vector<uint32_t> ids;
    for (const auto& [id, hook] : hooks_)
        ids.push_back(id);
    return ids;
}

std::vector<uint32_t> HookSet::active() const {
    std::vector<uint32_t> ids;
    for (const auto& [id, hook] : hooks_)
        if (hook.state == State::on)
            ids.push_back(id);
    return ids;
}

} // namespace shadowmon
