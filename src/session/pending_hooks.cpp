// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/pending_hooks.h"

#include <algorithm>
#include <fnmatch.h>

namespace shadowmon {

uint32_t PendingHooks::add(Hook hook) {
    for (auto& [id, known] : hooks_) {
        if (known.word != hook.word)
            continue;
        known.enabled |= hook.enabled;
        return id;
    }
    hooks_.emplace(next_id_, std::move(hook));
    return next_id_++;
}

std::vector<uint32_t> PendingHooks::select(const std::string& word) const {
    std::vector<uint32_t> ids;
    for (const auto& [id, hook] : hooks_)
        if (word == std::to_string(id) || word == hook.word ||
            fnmatch(word.c_str(), hook.word.c_str(), 0) == 0)
            ids.push_back(id);
    return ids;
}

bool PendingHooks::any_enabled() const {
    return std::any_of(hooks_.begin(), hooks_.end(),
                       [](const auto& one) { return one.second.enabled; });
}

HookStatus PendingHooks::status(uint32_t id) const {
    const Hook& hook = hooks_.at(id);
    HookStatus status;
    status.id = id;
    status.name = hook.word;
    status.state = "pending";
    status.limit = hook.limit;
    if (!hook.enabled)
        status.note = "disabled";
    else if (!hook.refusal.empty())
        status.note = hook.refusal;
    else
        status.note = "module " + hook.module() + " is not loaded";
    return status;
}

std::vector<HookStatus> PendingHooks::list() const {
    std::vector<HookStatus> all;
    for (const auto& [id, hook] : hooks_)
        all.push_back(status(id));
    return all;
}

} // namespace shadowmon
