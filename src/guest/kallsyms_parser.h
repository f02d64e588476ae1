// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kallsyms.h"

#include <array>
#include <cstring>

namespace shadowmon {

/// Finds the kallsyms tables in a copy of the kernel's read-only data and decodes
/// them; used once by Kallsyms. scripts/kallsyms.c writes them, each aligned to 8:
///
///   up to 6.3:  offsets, relative_base, num_syms, names, markers, [seqs_of_names],
///               token_table, token_index
///   since 6.4:  num_syms, names, markers, token_table, token_index, offsets,
///               relative_base, seqs_of_names
///
/// There is no header. The token table is recognized by what it must hold: digits and
/// lower-case letters stand for themselves. Everything else follows from it, and has
/// to agree: the markers with the names, the values with each other and with `_text`.
/// All bytes are hostile: work and memory are bounded, nothing is read outside the copy.
class KallsymsParser {
  public:
    KallsymsParser(std::span<const std::byte> data, Gva text) : data_(data), text_(text) {}

    Result<Kallsyms> run();

  private:
    struct Tokens {
        size_t table;     ///< where it begins
        size_t index_end; ///< behind token_index
        std::array<std::string_view, 256> token;
    };
    struct Names {
        size_t num_syms; ///< where the number is
        size_t first;
        uint32_t count;
    };

    template <typename T> T at(size_t offset) const {
        T value;
        std::memcpy(&value, data_.data() + offset, sizeof(value));
        return value;
    }
    bool fits(size_t offset, uint64_t size) const {
        return offset <= data_.size() && size <= data_.size() - offset;
    }

    std::optional<Tokens> tokens_at(size_t index) const;
    Result<Kallsyms> parse(const Tokens& tokens);
    bool names_at(const Names& names, const Tokens& tokens);
    Result<size_t> text_size(const Names& names, const Tokens& tokens) const;
    Status decode_names(const Names& names, const Tokens& tokens, Kallsyms& out) const;
    Status decode_values(size_t offsets, size_t base, const Names& names, Kallsyms& out) const;

    std::span<const std::byte> data_;
    Gva text_;
    uint64_t work_ = 0; ///< names looked at in search of their beginning
};

} // namespace shadowmon
