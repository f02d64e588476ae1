// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/events/clock_map.h"
#include "src/events/event.h"
#include "src/events/ring_reader.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace shadowmon {

/// Makes events of records: names, times, typed bodies. Records must come in the
/// order of time, because the exit of a 32-bit system call does not always say that
/// it is one: the decoder remembers the tasks that are in such a call.
class Decoder {
  public:
    Decoder() = default; ///< all times are 0
    explicit Decoder(ClockMap clock_map) : clock_map_(clock_map) {}

    /// Fills all of `event` but `ring` and `late`.
    void decode(const Record& record, Event& event);

    ClockMap& clock_map() { return clock_map_; }

    /// Names of the hooks by their ids, for HookHit. A longer name is cut to kMaxHookName bytes;
    /// events decoded before keep views of the old names, so set them before the first poll.
    void set_hook_names(std::vector<std::string> names);
    static constexpr size_t kMaxHookName = 256;

  private:
    Syscall enter(const Record& record, uint64_t nr);
    Syscall exit(const Record& record, uint64_t nr);

    std::string_view hook_name(uint32_t id) const;

    ClockMap clock_map_;
    std::vector<std::string> hook_names_;
    std::unordered_set<uint64_t> in_compat_; // task addresses
};

} // namespace shadowmon
