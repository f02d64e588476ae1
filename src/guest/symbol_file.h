// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/kallsyms.h"
#include "src/guest/kernel_image.h"
#include "src/guest/memory.h"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shadowmon {

/// The symbols of a kernel as a file on the host names them: a System.map, or a vmlinux with
/// its symbol table. A check of what the guest's own kallsyms say, and a stand-in for them
/// where the guest has none. Holds a copy of the symbols, at the addresses that the kernel was
/// linked for. The file may be of another kernel, cut, or made to harm: reading it is bounded.
class SymbolFile {
  public:
    static Result<SymbolFile> read_system_map(const std::string& path);
    static Result<SymbolFile> read_vmlinux(const std::string& path);

    /// The same of what a file holds; `name` is for messages.
    static Result<SymbolFile> parse_system_map(std::string_view text, const std::string& name);
    static Result<SymbolFile> parse_vmlinux(std::span<const std::byte> file,
                                            const std::string& name);

    const std::string& name() const { return name_; }
    size_t size() const { return symbols_.size(); }

    /// The symbols of a kernel that runs with its `_text` at `text`.
    Kallsyms at(Gva text) const;

    /// Fails, naming a difference, if the guest's own symbols are not those of this file.
    Status check(const Kallsyms& own) const;

  private:
    SymbolFile(std::string name, Kallsyms symbols, uint64_t text)
        : name_(std::move(name)), symbols_(std::move(symbols)), text_(text) {}

    static Result<SymbolFile> make(std::string name, std::vector<Symbol> symbols);

    std::string name_;
    Kallsyms symbols_; ///< as linked
    uint64_t text_;    ///< `_text` as linked
};

/// Whether symbols that are not from the guest itself are those of the kernel that runs there:
/// the vCPU's system-call entry has to be where they say, and every entry of the guest's table
/// of system calls, which lead all over its text, has to be the beginning of one.
Status prove_symbols(const PhysicalMemory& memory, const KernelImage& image, const CpuState& cpu,
                     const Kallsyms& symbols);

} // namespace shadowmon
