// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/btf.h"
#include "src/guest/kallsyms.h"
#include "src/guest/kernel_info.h"
#include "src/guest/page_walk.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shadowmon {

/// Where the kernel keeps what is needed of a loaded module, from its type information. `struct
/// module` has had its memory in two parts (`core_layout`, `init_layout`) up to 6.3, in an array
/// with one element for each kind (`mem`) since 6.4.
struct ModuleLayout {
    /// Where one range of memory is described.
    struct Part {
        uint32_t base, size; ///< offsets in struct module
        uint32_t base_size, size_size;
        bool init; ///< given back when the module is initialized
        bool text;
    };
    /// A pointer to the first entry, and how many there are.
    struct Table {
        uint32_t first, count; ///< offsets in struct module
        bool present;
    };

    uint32_t object_size; ///< of struct module
    uint32_t list, name, name_size, state;
    std::vector<Part> parts; ///< text parts first
    Table exceptions, jump_labels, static_calls, bugs, ftrace;
    Table noinstr; ///< first byte and size
    uint32_t kallsyms;
    uint32_t symtab, symbol_count, strtab, types; ///< in struct mod_kallsyms

    /// The error names the member that is missing or has another size.
    static Result<ModuleLayout> of(const Btf& btf);
};

struct ModuleRange {
    Gva start;
    uint64_t size = 0;

    Gva end() const { return start + size; }
    bool contains(Gva gva) const { return gva >= start && gva - start < size; }
};

/// Addresses and numbers as the guest wrote them: bounded in number, but they may lead anywhere.
struct ModuleTable {
    Gva first;
    uint64_t count = 0;
};

/// One module as its `struct module` described it at one moment. Plain data.
struct GuestModule {
    enum class State { live, coming, going, unformed };

    std::string name;
    Gva object; ///< its struct module
    State state = State::unformed;
    ModuleRange text;              ///< what stays of its code; whole pages
    ModuleRange noinstr;           ///< of it
    std::vector<ModuleRange> data; ///< what else stays
    ModuleTable exceptions, jump_labels, static_calls, bugs, ftrace;
    Gva kallsyms; ///< its struct mod_kallsyms

    bool contains(Gva gva) const;
};

/// "live", "still being loaded", "being unloaded".
const char* describe(GuestModule::State state);

struct GuestModules {
    std::vector<GuestModule> modules;
    std::vector<std::string> problems; ///< modules that are left out and why; where the list broke

    /// Names with - and _ are the same, as for modprobe.
    const GuestModule* find(std::string_view name) const;
    const GuestModule* around(Gva text) const; ///< the one whose code is there
};

/// Follows the kernel's list of modules, which may change meanwhile and is the guest's: it may go
/// in circles, lead anywhere, be endless. What cannot be read is left out and told; the others
/// stay.
GuestModules read_modules(const VirtualMemory& memory, const ModuleLayout& layout, Gva head);

/// The same from what is known of the kernel. Fails if it has no modules or does not say how they
/// look.
Result<GuestModules> read_modules(const KernelInfo& kernel, const PhysicalMemory& memory);

/// One of them again, by its object: what is there by now.
Result<GuestModule> read_module(const VirtualMemory& memory, const ModuleLayout& layout,
                                Gva object);

/// The symbols of one module: those that lie in its memory.
struct ModuleSymbols {
    Kallsyms symbols;
    std::vector<Gva> ends; ///< of functions, as the symbols' sizes say it; ascending
};
Result<ModuleSymbols> read_module_symbols(const VirtualMemory& memory, const ModuleLayout& layout,
                                          const GuestModule& module);
Result<ModuleSymbols> read_module_symbols(const KernelInfo& kernel, const PhysicalMemory& memory,
                                          const GuestModule& module);

/// The name of the function that begins there, without reading all names; of several the first in
/// the module's table, as kallsyms has it. Empty if none does.
Result<std::string> function_at(const VirtualMemory& memory, const ModuleLayout& layout,
                                const GuestModule& module, Gva at);

/// True if both are one module in the same place, by object, name and code, in whatever state.
bool same_module(const GuestModule& a, const GuestModule& b);

/// True if the module is there as it was, by its object, name and code, and live; of one that was
/// about to be initialized, also if it still is.
bool still_loaded(const GuestModules& now, const GuestModule& then);

} // namespace shadowmon
