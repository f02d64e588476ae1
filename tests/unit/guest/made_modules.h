// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/modules.h"
#include "tests/unit/guest/synthetic.h"

#include <string>
#include <vector>

namespace shadowmon::test {

/// How kernels describe a module's memory: up to 6.3, since 6.4.
enum class ModuleSeries { Core, Mem };

/// Type information of struct module and what belongs to it, with `without` left out.
std::vector<std::byte> make_module_btf(ModuleSeries series, const std::string& without = {});

/// A little guest with loaded modules, each with code, data, symbols and tables, linked in a list
/// as the kernel keeps it.
class MadeModules {
  public:
    static constexpr Gva head{0xffffffffc0000000};
    static constexpr uint64_t ram = 2 << 20;
    static constexpr uint64_t span = 0x10000; ///< from one module to the next
    static constexpr uint64_t text_size = 0x2000;
    static constexpr uint64_t object = 0x2100, kallsyms = 0x2800, symtab = 0x3000, types = 0x3800,
                              names = 0x3c00, end = 0x5000; ///< from the module's beginning

    explicit MadeModules(ModuleSeries series);

    /// Each has two functions, NAME_first and NAME_second, a datum NAME_data, and one symbol that
    /// is not its own.
    void add(const std::string& name, GuestModule::State state = GuestModule::State::live);

    Gva start(size_t module) const { return head + span * (module + 1); }
    Gva object_of(size_t module) const { return start(module) + object; }
    VirtualMemory memory() const { return VirtualMemory(PageTables(memory_, root_, 4)); }
    GuestModules read() const { return read_modules(memory(), layout, head); }

    template <typename T> void write(Gva at, T value) { put(at, &value, sizeof(value)); }
    void put(Gva at, const void* bytes, size_t size);
    /// What is at a multiple of 8, to be changed and put back.
    uint64_t& word(Gva at) { return memory_.word(gpa_of(at)); }

    ModuleLayout layout;
    SmallMemory& ram_of_guest() { return memory_; }

  private:
    static Gpa gpa_of(Gva at);
    void link(size_t count);

    SmallMemory memory_{ram};
    Gpa root_;
    size_t count_ = 0;
};

} // namespace shadowmon::test
