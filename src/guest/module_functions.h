// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/modules.h"

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace shadowmon {

/// Names functions of loaded modules by their addresses, as kallsyms does: "vm_interrupt
/// [virtio_mmio]". Modules come and go while it is asked, so a name is kept with the module that it
/// is of, which is looked at again every `recheck`: what has gone or has become another one is
/// looked for anew. In doubt there is no name. Looking costs time that depends on what the guest
/// says of its modules; together it takes no more than one part in `share`, after a first `burst`.
///
/// Borrows the memory behind `memory`. One thread uses it.
class ModuleFunctions {
  public:
    using Nanoseconds = std::chrono::nanoseconds;
    using Clock = std::function<Nanoseconds()>;

    /// Fails if the kernel has no modules or does not say how they look.
    static Result<ModuleFunctions> of(const KernelInfo& kernel, const PhysicalMemory& memory);

    ModuleFunctions(VirtualMemory memory, ModuleLayout layout, Gva head, Clock clock)
        : memory_(std::move(memory)), layout_(std::move(layout)), head_(head),
          clock_(std::move(clock)), asked_(clock_()) {}

    /// Empty if no function of a module begins there.
    std::string name_of(Gva at);

    static constexpr Nanoseconds recheck = std::chrono::milliseconds(100);
    static constexpr Nanoseconds burst = std::chrono::milliseconds(250);
    static constexpr int share = 20;
    static constexpr size_t max_known = 4096; ///< addresses; a guest that shows more is told less

  private:
    struct Known {
        std::string name;                  ///< empty: nothing is there
        std::optional<GuestModule> module; ///< that it is of
        Nanoseconds looked_at;
    };
    bool is_there(const GuestModule& module) const;
    void look(Gva at, Known& known) const;

    VirtualMemory memory_;
    ModuleLayout layout_;
    Gva head_;
    Clock clock_;
    Nanoseconds asked_;
    Nanoseconds left_ = burst; ///< that looking may still take
    std::map<Gva, Known> known_;
};

} // namespace shadowmon
