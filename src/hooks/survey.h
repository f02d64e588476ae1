// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/hook_planner.h"

#include <array>
#include <cstdint>
#include <functional>
#include <string>

namespace shadowmon {

/// What a plan for every instruction of a kernel's text says: how many can carry a hook, and
/// why the others cannot. Padding between functions is counted apart: it is not executed.
struct Survey {
    uint64_t instructions = 0; ///< without padding
    uint64_t hookable = 0;
    uint64_t padding = 0;
    uint64_t one_byte = 0;                            ///< of `instructions`
    uint64_t one_byte_hookable = 0;                   ///< of `hookable`
    std::array<uint64_t, refusal_count> refused{};    ///< by reason
    std::array<uint64_t, refusal_count> successors{}; ///< of those refused for their successor

    double share(uint64_t count) const;

    /// A table, the most frequent reasons first.
    std::string table() const;
};

/// Called for each instruction that can carry a hook.
using SurveyVisitor = std::function<void(Gva, const Displaced&)>;

/// Plans every instruction and re-encodes it for `page` in both forms; what cannot be encoded
/// there is refused as out of reach.
Survey survey(const HookPlanner& planner, Gva page, const SurveyVisitor& visit = {});

} // namespace shadowmon
