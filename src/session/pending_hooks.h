// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"
#include "src/guest/modules.h"

#include <map>
#include <optional>
#include <shadowmonitor/hooks.h>
#include <string>
#include <vector>

namespace shadowmon {

/// Hooks of a trace that wait for their module: what the user has named so before it was loaded,
/// and what was hooked when it went. A list of words, nothing of which is in guest or compartment;
/// each is planned when a module of that name comes. One thread uses it.
class PendingHooks {
  public:
    struct Hook {
        std::string word; ///< MODULE:..., as --hook has it
        std::optional<uint64_t> limit = {};
        bool enabled = true; ///< else it goes on waiting when the module is there
        std::string refusal = {};
        std::optional<GuestModule> refused_in = {}; ///< where it needs not be tried again
        std::string module() const { return word.substr(0, word.find(':')); }
    };

    /// Ids begin at `first_id`, behind those of the hooks that are planned.
    explicit PendingHooks(uint32_t first_id) : next_id_(first_id) {}

    /// Returns its id; that of the one that is there, if there is one of that name.
    uint32_t add(Hook hook);
    void remove(uint32_t id) { hooks_.erase(id); }

    /// In the order in which they were added.
    std::map<uint32_t, Hook>& hooks() { return hooks_; }

    /// Those meant by a user's word: an id, a name, a name with * and ?; perhaps none.
    std::vector<uint32_t> select(const std::string& word) const;

    size_t size() const { return hooks_.size(); }
    bool has(uint32_t id) const { return hooks_.count(id) > 0; }
    bool any_enabled() const;
    HookStatus status(uint32_t id) const;
    std::vector<HookStatus> list() const;

  private:
    uint32_t next_id_;
    std::map<uint32_t, Hook> hooks_;
};

} // namespace shadowmon
