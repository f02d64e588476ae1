// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/hook_set.h"

#include <algorithm>
#include <charconv>
#include <fnmatch.h>

namespace shadowmon {

namespace {

constexpr uint64_t ticks_per_khz_second = 1000;
/// Limits are kept per tenth of a second where that is a whole number of events, so that a burst
/// at the beginning of a second does not use all of it up.
constexpr uint64_t windows_per_second = 10;
constexpr uint64_t fine_limit = 100;

constexpr const char* changed_by_guest = "the guest has changed its code there";

/// The longest run of displaced instructions, and a page that ends in it.
constexpr size_t max_patches_of_hook =
    max_displaced * ZYDIS_MAX_INSTRUCTION_LENGTH / KVM_VIEWS_MAX_PATCH_LEN + 2;

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

/// The address of return that a hook leaves for the gate.
uint64_t rip_of(const Displaced& displaced) {
    return (displaced.address() + hook_size(displaced.gate)).value;
}

bool is_pattern(const std::string& word) { return word.find_first_of("*?[") != std::string::npos; }

} // namespace

bool HookRequest::has_byte_at(Gpa at) const {
    size_t here = std::min<size_t>(original.size(), SM_PAGE_SIZE - gpa.page_offset());
    Gpa rest = gpa_of(here);
    return (at >= gpa && at - gpa < here) || (at >= rest && at - rest < original.size() - here);
}

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
    const Displaced& displaced = request.displaced;
    Gva at = displaced.address();
    if (request.original.size() < std::max(displaced.bytes.size(), hook_size(displaced.gate)))
        return failf("{} at {:#x}: the guest's bytes there are not known", request.name, at.value);
    if (covers(at, request.original.size()))
        return failf("{} at {:#x}: there is a hook already", request.name, at.value);
    if (leaves(displaced))
        return failf("{} at {:#x}: a vCPU may still be on its way through the hook that was there",
                     request.name, at.value);
    std::optional<Resume> resume;
    if (displaced.gate == Gate::interrupt) {
        auto added = parts_.code.add(displaced);
        if (!added)
            return fail(added.error().in(request.name));
        resume = *added;
    }
    auto give_back = [&] {
        if (resume)
            parts_.code.free(*resume);
    };
    auto id = take_id();
    if (!id) {
        give_back();
        return failf("{}: no room, {} hooks are possible in one trace", request.name,
                     parts_.table.capacity());
    }
    sm_hook hook{};
    hook.rip = rip_of(displaced);
    hook.id = *id;
    hook.type = request.type;
    hook.flags = request.flags;
    if (resume) {
        hook.resume_if1 = resume->if1.value;
        hook.resume_if0 = resume->if0.value;
    } else {
        hook.flags |= SM_HOOK_CALL;
    }
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
        give_back();
        free_ids_.push_back(*id);
        return fail(status.error().in(request.name));
    }
    hooks_[*id] = {request, State::staged, {}, resume};
    places_[at] = *id;
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

void HookSet::leave(Leaver one) {
    left_rips_.insert(one.rip);
    leaving_.push_back(one);
}

void HookSet::let_go(std::map<uint32_t, Hook>::iterator hook) {
    if (hook->second.gone) {
        spent_.push_back(hook->first);
    } else {
        leave({hook->first, rip_of(hook->second.request.displaced), hook->second.resume});
        places_.erase(hook->second.at());
    }
    hooks_.erase(hook);
}

void HookSet::unstage(std::span<const uint32_t> ids) {
    for (uint32_t id : ids)
        if (auto hook = hooks_.find(id); hook != hooks_.end())
            let_go(hook);
}

/// The whole of the displaced instructions, so that the guest changes none of them unnoticed, in
/// pieces that cross no page.
void HookSet::add_patches(const Hook& hook, uint32_t flags,
                          std::vector<kvm_views_patch>& patches) const {
    const HookRequest& request = hook.request;
    std::vector<std::byte> ours = request.original;
    flags |= KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_HIDE;
    if (request.displaced.gate == Gate::call) {
        auto call = call_hook(hook.at(), parts_.call_gate);
        std::copy(call.begin(), call.end(), ours.begin());
        flags |= KVM_VIEWS_PATCH_CALL;
    } else {
        std::copy(hook_bytes.begin(), hook_bytes.end(), ours.begin());
    }
    std::span<const std::byte> now = flags & KVM_VIEWS_PATCH_REVERT ? ours : request.original;
    for (size_t done = 0; done < ours.size();) {
        Gpa at = request.gpa_of(done);
        auto size = std::min<size_t>(
            {ours.size() - done, KVM_VIEWS_MAX_PATCH_LEN, SM_PAGE_SIZE - at.value % SM_PAGE_SIZE});
        patches.push_back(
            make_patch(at, now.subspan(done, size), std::span(ours).subspan(done, size), flags));
        done += size;
    }
}

std::vector<kvm_views_patch> HookSet::patches(std::span<const uint32_t> ids) const {
    std::vector<kvm_views_patch> patches;
    for (uint32_t id : ids)
        add_patches(hooks_.at(id), 0, patches);
    return patches;
}

void HookSet::armed(std::span<const uint32_t> ids) {
    for (uint32_t id : ids)
        hooks_.at(id).state = State::on;
}

/// The kernel looks at each page once if the patches come in their order.
std::vector<uint32_t> HookSet::by_place(std::span<const uint32_t> ids) const {
    std::vector<std::pair<Gpa, uint32_t>> places;
    places.reserve(ids.size());
    for (uint32_t id : ids)
        places.emplace_back(hooks_.at(id).request.gpa, id);
    std::sort(places.begin(), places.end());
    std::vector<uint32_t> sorted;
    sorted.reserve(places.size());
    for (const auto& [gpa, id] : places)
        sorted.push_back(id);
    return sorted;
}

std::string HookSet::name_of_patch(std::span<const uint32_t> ids, size_t index) const {
    std::vector<kvm_views_patch> patches;
    for (uint32_t id : ids) {
        add_patches(hooks_.at(id), 0, patches);
        if (index < patches.size())
            return hooks_.at(id).request.name;
    }
    return {};
}

Result<std::vector<uint32_t>> HookSet::add(Views& views, std::span<const HookRequest> requests,
                                           Change* change) {
    auto ids = stage(requests);
    if (!ids || ids->empty())
        return ids;
    uint32_t failed = 0;
    const std::vector<uint32_t> sorted = by_place(*ids);
    auto patched = views.patch(patches(sorted), &failed);
    if (!patched) {
        std::string name = name_of_patch(sorted, failed);
        unstage(*ids);
        return fail(patched.error().in("hook " + name));
    }
    armed(*ids);
    if (change)
        change->pause_tsc = patched->pause_tsc;
    return ids;
}

void HookSet::note_retired(uint32_t id, std::string why) {
    Hook& hook = hooks_.at(id);
    hook.state = State::retired;
    hook.note = std::move(why);
    if (!hook.request.internal)
        retired_.push_back({id, hook.request.name, hook.note});
}

/// Of its patches some are gone; the others go with them, if they were in place.
Status HookSet::retire(Views& views, uint32_t id) {
    Hook& hook = hooks_.at(id);
    bool was_on = hook.state == State::on;
    note_retired(id, changed_by_guest);
    std::vector<kvm_views_patch> patches;
    add_patches(hook, KVM_VIEWS_PATCH_REVERT, patches);
    for (const kvm_views_patch& patch : patches)
        if (was_on && patches.size() > 1)
            if (auto gone = views.patch({&patch, 1}); !gone && gone.error().code() != ESTALE)
                return fail(gone.error());
    return {};
}

/// Patches those hooks that are in state `from`. One that the guest has changed is retired, and the
/// others are tried again without it.
Result<HookSet::Change> HookSet::patch(Views& views, std::vector<uint32_t> ids, State from,
                                       State to, uint32_t flags) {
    std::erase_if(ids, [&](uint32_t id) { return hooks_.at(id).state != from; });
    ids = by_place(ids);
    Change change;
    while (!ids.empty()) {
        std::vector<kvm_views_patch> patches;
        std::vector<size_t> owner; // of each patch, in ids
        size_t batch = 0;
        for (; batch < ids.size() && patches.size() + max_patches_of_hook <= KVM_VIEWS_MAX_PATCHES;
             batch++) {
            add_patches(hooks_.at(ids[batch]), flags, patches);
            owner.resize(patches.size(), batch);
        }
        uint32_t failed = 0;
        auto patched = views.patch(patches, &failed);
        if (!patched && patched.error().code() == ESTALE && failed < owner.size()) {
            auto stale = ids.begin() + static_cast<std::ptrdiff_t>(owner[failed]);
            SM_TRY(retire(views, *stale));
            ids.erase(stale);
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

Result<std::optional<uint32_t>> HookSet::overwritten(Views& views, Gpa gpa) {
    for (auto& [id, hook] : hooks_) {
        if (hook.state != State::on || !hook.request.has_byte_at(gpa))
            continue;
        SM_TRY(retire(views, id));
        return std::optional(id);
    }
    return std::optional<uint32_t>();
}

Result<HookSet::Change> HookSet::let_modules_go(Views& views, std::span<const uint32_t> ids,
                                                const std::string& why) {
    auto change = disable(views, ids);
    if (!change)
        return change;
    for (uint32_t id : ids) {
        Hook& hook = hooks_.at(id);
        if (hook.gone)
            continue;
        if (hook.state != State::retired)
            note_retired(id, why);
        leave({std::nullopt, rip_of(hook.request.displaced), hook.resume});
        hook.gone = true;
        places_.erase(hook.at());
    }
    return change;
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
            if (one.resume)
                parts_.code.free(*one.resume);
            if (one.id)
                spent_.push_back(*one.id);
            left_rips_.erase(one.rip);
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

bool HookSet::leaves(const Displaced& place) const { return left_rips_.contains(rip_of(place)); }

HookStatus HookSet::status(uint32_t id) const {
    const Hook& hook = hooks_.at(id);
    HookCounts counts = parts_.counters.read(id);
    HookStatus status;
    status.id = id;
    status.name = hook.request.name;
    status.address = hook.at().value;
    status.gate = shadowmon::name(hook.request.displaced.gate);
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
        if (!hook.request.internal)
            all.push_back(status(id));
    return all;
}

Result<std::vector<uint32_t>> HookSet::select(const std::vector<std::string>& words) const {
    std::set<uint32_t> chosen;
    // A command may have as many words as there are hooks: not all hooks are looked at for each.
    std::multimap<std::string_view, uint32_t> names;
    auto names_are_known = [&] {
        if (names.empty())
            for (const auto& [id, hook] : hooks_)
                if (!hook.request.internal)
                    names.emplace(hook.request.name, id);
    };
    for (const std::string& word : words) {
        bool known = false;
        auto choose = [&](uint32_t id) {
            chosen.insert(id);
            known = true;
        };
        if (auto wanted = as_id(word)) {
            auto hook = hooks_.find(*wanted);
            if (hook != hooks_.end() && !hook->second.request.internal)
                choose(*wanted);
        } else {
            names_are_known();
            for (auto [at, end] = names.equal_range(word); at != end; ++at)
                choose(at->second);
        }
        if (is_pattern(word))
            for (const auto& [id, hook] : hooks_)
                if (!hook.request.internal &&
                    fnmatch(word.c_str(), hook.request.name.c_str(), 0) == 0)
                    choose(id);
        if (!known)
            return failf("there is no hook \"{}\" (`shadowmon hooks list` shows those there are)",
                         word);
    }
    return std::vector<uint32_t>(chosen.begin(), chosen.end());
}

bool HookSet::covers(Gva at, size_t size) const {
    auto behind = places_.lower_bound(at + size);
    return behind != places_.begin() && at < hooks_.at(std::prev(behind)->second).end();
}

std::vector<std::pair<Gva, std::vector<std::byte>>> HookSet::covered() const {
    std::vector<std::pair<Gva, std::vector<std::byte>>> all;
    for (const auto& [id, hook] : hooks_) {
        if (hook.state == State::on)
            all.emplace_back(hook.at(), hook.request.original);
    }
    return all;
}

std::vector<uint32_t> HookSet::all() const {
    std::vector<uint32_t> ids;
    for (const auto& [id, hook] : hooks_)
        ids.push_back(id);
    return ids;
}

std::vector<uint32_t> HookSet::in_modules() const {
    std::vector<uint32_t> ids;
    for (const auto& [id, hook] : hooks_)
        if (hook.request.module && !hook.gone)
            ids.push_back(id);
    return ids;
}

std::vector<uint32_t> HookSet::active() const {
    std::vector<uint32_t> ids;
    for (bool internal : {false, true})
        for (const auto& [id, hook] : hooks_)
            if (hook.state == State::on && hook.request.internal == internal)
                ids.push_back(id);
    return ids;
}

} // namespace shadowmon
