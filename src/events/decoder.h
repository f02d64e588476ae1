// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/events/clock_map.h"
#include "src/events/irq_pairing.h"
#include "src/events/ring_reader.h"
#include <shadowmonitor/event.h>

#include <cstdint>
#include <functional>
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
    /// max_hook_name bytes. Views of names stay good as long as the decoder lives, also when an id
    /// is given to another hook.
    void set_hook_name(uint32_t id, std::string name);
    static constexpr size_t max_hook_name = 256;

    /// The entry function of the interrupts that this hook tells of, at their entry or exit; until
    /// set_irq_hook() has been called, it is "?".
    void set_irq_hook(uint32_t id, std::string function);

    /// Names a function of the guest by its address; empty if it has no name. Asked for each
    /// handler of a device anew, since modules come and go.
    using Symbolizer = std::function<std::string(Gva)>;
    void set_symbolizer(Symbolizer symbolizer) { symbolizer_ = std::move(symbolizer); }

    /// Hooks were put in or taken out; no interrupt around that time gets a duration.
    void hooks_changed(uint64_t tsc) { irqs_.hooks_changed(tsc); }
    const IrqPairing& irqs() const { return irqs_; }

    /// So many names of handlers are kept; a guest that shows more has the others "?".
    static constexpr size_t max_handlers = 4096;

  private:
    Syscall enter(const Record& record, uint64_t nr);
    Syscall exit(const Record& record, uint64_t nr);

    std::string_view hook_name(uint32_t id) const;
    std::string_view irq_function(uint32_t id) const;
    std::string_view handler_name(Gva handler);
    IrqEnter irq_enter(const Record& record);
    IrqExit irq_exit(const Record& record);

    ClockMap clock_map_;
    std::set<std::string> names_; // that any hook ever had
    std::vector<std::string_view> hook_names_;
    std::vector<std::string_view> irq_functions_; // by hook id
    Symbolizer symbolizer_;
    std::set<std::string> handlers_; // names of them, as views in events have it
    IrqPairing irqs_;
    std::unordered_set<uint64_t> in_compat_; // task addresses
};

} // namespace shadowmon
