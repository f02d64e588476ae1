// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/escape.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace shadowmon {
namespace {

constexpr char hex[] = "0123456789abcdef";

struct Range {
    uint32_t first, last;
};

// Unicode characters that are not seen but change what is seen around them: C1 controls,
// soft hyphen, bidirectional and format controls, line separators, byte-order mark,
// interlinear annotation, tags. From the Unicode character database: categories Cc, Cf,
// Zl, Zp.
constexpr Range invisible_ranges[] = {
    {0x80, 0x9f},       {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
    {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},
    {0x180e, 0x180e},   {0x200b, 0x200f},   {0x2028, 0x202e},   {0x2060, 0x206f},
    {0xfeff, 0xfeff},   {0xfff9, 0xfffb},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd},
    {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0001, 0xe007f},
};

bool invisible(uint32_t code) {
    const auto* range = std::lower_bound(std::begin(invisible_ranges), std::end(invisible_ranges),
                                         code, [](Range r, uint32_t c) { return r.last < c; });
    return range != std::end(invisible_ranges) && range->first <= code;
}

/// Length of the well-formed, harmless UTF-8 sequence of two to four bytes that `text`
/// starts with, or 0.
size_t visible_sequence(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(0);
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || text.size() < length)
        return 0;
    uint32_t code = lead & (0xff >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (byte(i) & 0x3f);
    }
    constexpr uint32_t lowest[] = {0x80, 0x800, 0x10000}; // anything lower is overlong
    if (code < lowest[length - 2] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    return invisible(code) ? 0 : length;
}

int hex_digit(char c) {
    const char* found = std::find(hex, hex + 16, c);
    return found == hex + 16 ? -1 : static_cast<int>(found - hex);
}

} // namespace

char* escape_to(char* out, std::string_view text, bool blanks) {
    for (size_t i = 0; i < text.size();) {
        const auto c = static_cast<uint8_t>(text[i]);
        if (c > 0x20 && c < 0x7f && c != '\\') [[likely]] {
            *out++ = text[i++];
        } else if (c == '\\') {
            *out++ = '\\';
            *out++ = '\\';
            ++i;
        } else if (c == ' ' && !blanks) {
            *out++ = ' ';
            ++i;
        } else if (const size_t length = c >= 0x80 ? visible_sequence(text.substr(i)) : 0) {
            out = std::copy_n(&text[i], length, out);
            i += length;
        } else {
            *out++ = '\\';
            *out++ = 'x';
            *out++ = hex[c >> 4];
            *out++ = hex[c & 15];
            ++i;
        }
    }
    return out;
}

std::string escape(std::string_view text, bool blanks) {
    std::string out(4 * text.size(), '\0');
    out.resize(static_cast<size_t>(escape_to(out.data(), text, blanks) - out.data()));
    return out;
}

std::string unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == '\\') {
            out += '\\';
            ++i;
            continue;
        }
        if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] == 'x') {
            const int high = hex_digit(text[i + 2]);
            const int low = hex_digit(text[i + 3]);
            if (high >= 0 && low >= 0) {
                out += static_cast<char>(high << 4 | low);
                i += 3;
                continue;
            }
        }
        out += text[i];
    }
    return out;
}

} // namespace shadowmon
