// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/kallsyms_parser.h"

#include <algorithm>
#include <cctype>

namespace shadowmon {

namespace {

constexpr size_t index_size = 256 * sizeof(uint16_t);
constexpr size_t max_token = 64;      ///< bytes; the longest seen is below 20
constexpr uint32_t min_symbols = 256; ///< the smallest kernels have some thousands
constexpr uint32_t max_symbols = 4 << 20;
constexpr size_t max_name = 512; ///< KSYM_NAME_LEN
constexpr size_t max_text = 128 << 20;
constexpr uint64_t max_work = 64 << 20;
constexpr unsigned max_token_tables = 16;
constexpr uint64_t image_reach = 1u << 30; ///< symbols of the image are this close to `_text`

constexpr size_t align8(size_t value) { return (value + 7) & ~size_t{7}; }

/// Length of a compressed name at the front of `data`: one byte or two (ULEB128).
/// Returns the size of the length itself, 0 when there is none.
size_t name_length(std::span<const std::byte> data, size_t& length) {
    if (data.empty())
        return 0;
    length = static_cast<uint8_t>(data[0]);
    if (length < 0x80)
        return length ? 1 : 0;
    if (data.size() < 2 || static_cast<uint8_t>(data[1]) >= 0x80)
        return 0;
    length = (length & 0x7f) | static_cast<size_t>(data[1]) << 7;
    return length ? 2 : 0;
}

} // namespace

std::optional<KallsymsParser::Tokens> KallsymsParser::tokens_at(size_t index) const {
    if (!fits(index, index_size) || at<uint16_t>(index) != 0)
        return std::nullopt;
    for (unsigned i = 1; i < 256; ++i)
        if (at<uint16_t>(index + 2 * i) <= at<uint16_t>(index + 2 * i - 2))
            return std::nullopt;

    // The table ends at the index but for alignment, and the length of the last
    // token is not written down: try each.
    size_t last = at<uint16_t>(index + 2 * 255);
    for (size_t length = 0; length <= max_token; ++length) {
        size_t size = align8(last + length + 1);
        if (size > index)
            break;
        size_t start = index - size;
        if (at<char>(start + last + length) != 0)
            continue;
        Tokens tokens{start, index + index_size, {}};
        bool good = true;
        for (unsigned i = 0; i < 256 && good; ++i) {
            size_t begin = at<uint16_t>(index + 2 * i);
            size_t end = i == 255 ? last + length : at<uint16_t>(index + 2 * i + 2) - 1u;
            tokens.token[i] = {reinterpret_cast<const char*>(data_.data()) + start + begin,
                               end - begin};
            good = tokens.token[i].size() <= max_token && at<char>(start + end) == 0 &&
                   tokens.token[i].find('\0') == std::string_view::npos;
            if (std::isdigit(static_cast<int>(i)) || std::islower(static_cast<int>(i)))
                good = good && tokens.token[i].size() == 1 &&
                       tokens.token[i][0] == static_cast<char>(i);
        }
        if (good)
            return tokens;
    }
    return std::nullopt;
}

/// Whether names and markers begin here and lead up to the token table.
bool KallsymsParser::names_at(const Names& names, const Tokens& tokens) {
    size_t at = names.first;
    std::vector<uint32_t> markers;
    for (uint32_t i = 0; i < names.count; ++i) {
        if (i % 256 == 0)
            markers.push_back(static_cast<uint32_t>(at - names.first));
        size_t length = 0;
        size_t bytes = name_length(data_.subspan(at, tokens.table - at), length);
        ++work_;
        if (bytes == 0 || length > tokens.table - at - bytes)
            return false;
        at += bytes + length;
    }
    at = align8(at);
    if (4 * markers.size() > tokens.table - at)
        return false;
    for (size_t i = 0; i < markers.size(); ++i)
        if (this->at<uint32_t>(at + 4 * i) != markers[i])
            return false;
    at = align8(at + 4 * markers.size());
    return at == tokens.table || align8(at + 3 * size_t{names.count}) == tokens.table;
}

/// How many characters all names have, their types included; fails where one or all are too long.
Result<size_t> KallsymsParser::text_size(const Names& names, const Tokens& tokens) const {
    size_t at = names.first;
    size_t total = 0;
    for (uint32_t i = 0; i < names.count; ++i) {
        size_t length = 0;
        at += name_length(data_.subspan(at), length);
        size_t size = 0;
        for (size_t k = 0; k < length; ++k)
            size += tokens.token[this->at<uint8_t>(at + k)].size();
        at += length;
        if (size > max_name)
            return failf("kallsyms names: symbol {} of {} is longer than {} characters", i,
                         names.count, max_name);
        total += size;
        if (total > max_text)
            return failf("kallsyms names: more than {} MiB of names", max_text >> 20);
    }
    return total;
}

Status KallsymsParser::decode_names(const Names& names, const Tokens& tokens, Kallsyms& out) const {
    auto size = text_size(names, tokens);
    if (!size)
        return fail(size.error());
    // All tokens at one distance, so that most are copied by two moves of fixed size.
    std::vector<std::array<char, max_token>> padded(256);
    for (unsigned i = 0; i < 256; ++i)
        tokens.token[i].copy(padded[i].data(), max_token);

    size_t at = names.first;
    size_t end = 0; // of what is decoded
    out.names_.reserve(names.count + 1);
    out.text_.resize(*size + max_token); // what a copy may write beyond its token
    char* text = out.text_.data();
    for (uint32_t i = 0; i < names.count; ++i) {
        size_t length = 0;
        at += name_length(data_.subspan(at), length);
        size_t start = end;
        out.names_.push_back(static_cast<uint32_t>(start));
        for (size_t k = 0; k < length; ++k) {
            auto code = this->at<uint8_t>(at + k);
            size_t token = tokens.token[code].size();
            std::memcpy(text + end, padded[code].data(), 16);
            if (token > 16)
                std::memcpy(text + end, padded[code].data(), max_token);
            end += token;
        }
        at += length;
        if (end - start < 2 || !std::isalpha(static_cast<unsigned char>(text[start])))
            return failf("kallsyms names: symbol {} of {} has {} characters and begins with {:#x}",
                         i, names.count, end - start,
                         static_cast<unsigned>(static_cast<unsigned char>(text[start])));
    }
    out.names_.push_back(static_cast<uint32_t>(end));
    out.text_.resize(end);
    return {};
}

Status KallsymsParser::decode_values(size_t offsets, size_t base_at, const Names& names,
                                     Kallsyms& out) const {
    if (!fits(offsets, 4 * uint64_t{names.count}) || !fits(base_at, 8))
        return failf("kallsyms offsets: cut off, {} of them do not fit", names.count);
    auto base = at<uint64_t>(base_at);
    if (base - text_.value >= image_reach && text_.value - base >= image_reach)
        return failf("kallsyms relative base: {:#x} is far from the kernel text at {:#x}", base,
                     text_.value);

    // CONFIG_KALLSYMS_ABSOLUTE_PERCPU: negative is relative, the others are
    // absolute. Without it all are relative. `_text` is relative in any case.
    std::optional<uint32_t> text_index;
    for (uint32_t i = 0; i < names.count && !text_index; ++i) {
        if (out.name(i) == "_text")
            text_index = i;
    }
    if (!text_index)
        return failf("kallsyms names: no _text among {} symbols", names.count);
    bool absolute_percpu = at<int32_t>(offsets + 4 * size_t{*text_index}) < 0;

    out.values_.resize(names.count);
    out.absolute_.resize(names.count);
    uint64_t previous = 0;
    for (uint32_t i = 0; i < names.count; ++i) {
        auto offset = at<int32_t>(offsets + 4 * size_t{i});
        uint64_t value = base + static_cast<uint32_t>(offset);
        if (absolute_percpu) {
            out.absolute_[i] = offset >= 0;
            value = offset >= 0 ? static_cast<uint64_t>(offset)
                                : base - 1 - static_cast<int64_t>(offset);
        }
        if (value < previous)
            return failf("kallsyms offsets: symbol {} of {} ({}) at {:#x} is below its "
                         "predecessor at {:#x}",
                         i, names.count, out.name(i), value, previous);
        out.values_[i] = previous = value;
    }
    if (out.values_[*text_index] != text_.value)
        return failf("kallsyms: _text is {:#x}, but the kernel image begins at {:#x}",
                     out.values_[*text_index], text_.value);
    return {};
}

Result<Kallsyms> KallsymsParser::parse(const Tokens& tokens) {
    std::optional<Names> names;
    for (size_t p = tokens.table & ~size_t{7}; p >= 8 && !names;) {
        p -= 8;
        size_t distance = tokens.table - p;
        auto count = at<uint32_t>(p);
        // A name takes two bytes at least, and 60 are far above any average.
        if (distance > size_t{max_symbols} * 60)
            break;
        if (at<uint32_t>(p + 4) != 0 || count < min_symbols || count > max_symbols ||
            count > distance / 2 || count < distance / 60)
            continue;
        Names candidate{p, p + 8, count};
        if (names_at(candidate, tokens))
            names = candidate;
        if (work_ > max_work)
            return failf("kallsyms names: too many false beginnings before the token table");
    }
    if (!names)
        return failf("kallsyms names: no number of symbols, names and markers that lead up to "
                     "the token table at offset {:#x}",
                     tokens.table);

    Kallsyms out;
    SM_TRY(decode_names(*names, tokens, out));
    size_t offsets_size = align8(4 * size_t{names->count});
    auto values = decode_values(tokens.index_end, tokens.index_end + offsets_size, *names, out);
    if (!values && names->num_syms >= 8 + offsets_size) {
        size_t base = names->num_syms - 8;
        auto older = decode_values(base - offsets_size, base, *names, out);
        if (!older)
            return failf("{}; with the table order before 6.4: {}", values.error().message(),
                         older.error().message());
        values = {};
    }
    SM_TRY(values);
    out.index();
    return out;
}

Result<Kallsyms> KallsymsParser::run() {
    Error error("kallsyms: no token table");
    unsigned tables = 0;
    for (size_t index = 8; fits(index, index_size); index += 8) {
        auto tokens = tokens_at(index);
        if (!tokens)
            continue;
        auto symbols = parse(*tokens);
        if (symbols)
            return symbols;
        error = symbols.error();
        if (++tables == max_token_tables || work_ > max_work)
            break;
    }
    return fail(error);
}

} // namespace shadowmon
