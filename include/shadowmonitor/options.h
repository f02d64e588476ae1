// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/result.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// What to watch, as the user names it.
struct MonitorSet {
    bool syscalls = false; ///< system calls, where they begin and where they return
    bool switches = false; ///< process switches
    bool irq = false;      ///< interrupts, where they begin and end

    bool any() const { return syscalls || switches || irq; }

    /// "syscalls,switches,irq"; the error lists what there is.
    static Result<MonitorSet> parse(const std::string& names);
};

/// When an event finds no room because the rings are read too slowly.
enum class WhenFull {
    drop,  ///< the guest goes on; what was lost is counted, and told by a Lost event
    block, ///< the guest waits until there is room; nothing is lost
};

/// How the compartment comes by its address range in the guest.
enum class Placement {
    automatic, ///< as host, or what the guest has reserved, with an offer or without one
    host,      ///< the host finds the range free and takes it; the guest has no part in it
    guest      ///< a module in the guest has reserved the range and offers it (docs/cooperative.md)
};

/// The symbols of a kernel, from a file. Opaque; may be shared by several monitors.
class SymbolFile;
using Symbols = std::shared_ptr<const SymbolFile>;
Result<Symbols> read_system_map(const std::string& path);
Result<Symbols> read_vmlinux(const std::string& path);

/// How to watch a VM.
struct Options {
    MonitorSet monitors;
    /// Places in the guest's kernel: FUNCTION, FUNCTION%return, FUNCTION+OFFSET, 0xADDRESS, or a
    /// pattern of functions ("nf_*"); MODULE:... of a module, which need not be loaded yet.
    std::vector<std::string> hooks;
    std::optional<uint64_t> hook_limit; ///< events per second of each of them
    static constexpr uint32_t default_hook_capacity = 2048;
    uint32_t hook_capacity = default_hook_capacity; ///< hooks at a time, those added later too
    bool call_gate = true;                          ///< hooks by CALL where they are possible
    Placement placement = Placement::automatic;
    /// Bytes of each event ring, of which there are two for each vCPU: a power of two within these.
    uint64_t ring_size = 1u << 20;
    static constexpr uint64_t min_ring_size = 4096;
    static constexpr uint64_t max_ring_size = 4 << 20;
    WhenFull when_full = WhenFull::drop;
    /// Checked against the symbols in the guest's memory, used if it has none; may be null.
    Symbols symbols;

    /// What is wrong with the options themselves, before a VM is looked at. Monitor::attach()
    /// asks as well.
    Status check() const;
};

} // namespace shadowmon
