// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/kernel_image.h"
#include "src/guest/memory.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowmon {

struct Symbol {
    std::string_view name; ///< valid as long as the Kallsyms it is from
    uint64_t value;        ///< address, or offset in the per-CPU area for absolute symbols
    char type;             ///< as nm(1) says it, upper case: global
    bool absolute;         ///< not moved by KASLR: per-CPU offsets and constants
};

/// The symbol table of the running kernel, as it carries it in its own memory
/// (CONFIG_KALLSYMS, with the relative base that x86-64 has used since 4.6). Holds
/// a copy: later changes in the guest do not matter.
class Kallsyms {
  public:
    /// Searches the read-only part of the image for the tables and decodes them all.
    /// Errors name the table that failed and what was seen.
    static Result<Kallsyms> find(const PhysicalMemory& memory, const KernelImage& image);

    /// The same in a copy of the read-only data; the values must fit an image whose
    /// `_text` is at `text`.
    static Result<Kallsyms> parse(std::span<const std::byte> data, Gva text);

    /// Symbols that come from elsewhere, in any order; `source` stands for "kallsyms" in messages.
    static Kallsyms of(std::vector<Symbol> symbols, std::string source);

    const std::string& source() const { return source_; }
    size_t size() const { return values_.size(); }

    /// Symbols in the order of the kernel's table.
    Symbol operator[](size_t index) const;
    std::string_view name(size_t index) const {
        return {text_.data() + names_[index] + 1, names_[index + 1] - names_[index] - 1};
    }

    /// The first symbol of that name.
    std::optional<Symbol> find(std::string_view name) const;
    std::vector<Symbol> find_all(std::string_view name) const;

    /// Address of the one symbol of that name; fails when there is none, more than
    /// one address, or an absolute one.
    Result<Gva> address(std::string_view name) const;

    /// Value of the one absolute symbol of that name: an offset in the per-CPU area.
    Result<uint64_t> percpu_offset(std::string_view name) const;

    /// The last symbol at or below an address, with aliases resolved to the first.
    std::optional<Symbol> find_by_address(Gva gva) const;

    /// The address of the first symbol above `gva`: the end of the function there.
    std::optional<Gva> next_address(Gva gva) const;

  private:
    friend class KallsymsParser;
    Kallsyms() = default;
    void index();
    size_t bucket_of(std::string_view name) const;

    std::string source_ = "kallsyms";
    std::vector<uint64_t> values_; ///< ascending
    std::vector<bool> absolute_;
    std::vector<uint32_t>
        names_; ///< where a symbol's type and name begin in text_; one more at the end
    std::string text_;
    // By name: the first symbol of each hash, and behind each the next of the same hash.
    // A guest that makes all names collide makes look-ups slow, not this.
    std::vector<uint32_t> buckets_;
    std::vector<uint32_t> next_;
};

} // namespace shadowmon
