// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/layout.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace shadowmon {

/// Finds for the exit of an interrupt the entry that it belongs to: on the same CPU, the last one
/// that is still open. The events of a CPU are numbered by the payload, lost ones too; where a
/// number is missing or out of order, all that is open on that CPU is given up, and where the
/// hooks have changed in between, so is the pair. An exit is rather left without an entry than
/// given a wrong one. Takes events in the order of time; one thread uses it.
class IrqPairing {
  public:
    struct Entry {
        uint64_t tsc = 0;
        std::string_view function; ///< that the hooks belong to, compared by its letters
        std::string_view handler;
        uint32_t vector = 0;
        uint32_t irq = 0;
    };

    void enter(uint32_t cpu, uint64_t nth, const Entry& entry);
    std::optional<Entry> exit(uint32_t cpu, uint64_t nth, uint64_t tsc, std::string_view function);

    /// Hooks were put in or taken out at that time: what was entered before and left after may
    /// have met other hooks in between than are known of.
    void hooks_changed(uint64_t tsc);

    /// Interrupts that were entered and not left yet, or whose exit is not known.
    uint64_t open() const;

    static constexpr size_t max_depth = 16; ///< what is nested deeper is given up
    static constexpr size_t max_changes = 1024;

  private:
    struct Cpu {
        uint64_t next = 0; ///< number of its next event
        std::vector<Entry> open;
    };
    Cpu& cpu_at(uint32_t cpu, uint64_t nth);
    bool changed_within(uint64_t from, uint64_t to) const;

    std::array<Cpu, SM_MAX_VCPUS> cpus_; ///< as the payload tells them apart
    std::vector<uint64_t> changes_;
};

} // namespace shadowmon
