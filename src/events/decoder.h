// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/events/clock_map.h"
#include "src/events/event.h"
#include "src/events/ring_reader.h"

#include <cstdint>
#include <set>
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

    /// Names the hook with that id in every HookHit decoded from now on. A longer name is cut to
    /// kMaxHookName bytes. Views of names stay good as long as the decoder lives, also when an id
    /// is given to another hook.
    void set_hook_name(uint32_t id, std::string name);
    static constexpr size_t kMaxHookName = 256;

  private:
    Syscall enter(const Record& record, uint64_t nr);
    Syscall exit(const Record& record, uint64_t nr);

    std::string_view hook_name(uint32_t id) const;

    ClockMap clock_map_;
    std::set<std::string> names_; // that any hook ever had
    std::vector<std::string_view> hook_names_;
    std::unordered_set<uint64_t> in_compat_; // task addresses
};

} // namespace shadowmon
