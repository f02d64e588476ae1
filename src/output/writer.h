// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <fmt/format.h>
#include <string_view>

namespace shadowmon {

/// Writes the pieces of one line into a buffer that its user knows to be big enough
/// (Sink::reserve). The few operations that both formats need, without checks per piece.
class Writer {
  public:
    explicit Writer(char* begin) : at_(begin) {}

    char* at() const { return at_; }
    void set(char* at) { at_ = at; }

    Writer& text(std::string_view text) {
        std::memcpy(at_, text.data(), text.size());
        at_ += text.size();
        return *this;
    }

    template <typename Integer> Writer& decimal(Integer value) {
        const fmt::format_int digits(value);
        return text({digits.data(), digits.size()});
    }

    /// "0x7f", without leading zeros.
    Writer& hex(uint64_t value) {
        const int digits = value == 0 ? 1 : (std::bit_width(value) + 3) / 4;
        at_[0] = '0';
        at_[1] = 'x';
        at_ += 2;
        for (int i = digits - 1; i >= 0; --i, value >>= 4)
            at_[i] = "0123456789abcdef"[value & 15];
        at_ += digits;
        return *this;
    }

    /// Blanks up to `column` of the line that starts at `begin`, at least one.
    Writer& pad_to(const char* begin, size_t column) {
        const auto used = static_cast<size_t>(at_ - begin);
        const size_t blanks = used < column ? column - used : 1;
        std::memset(at_, ' ', blanks);
        at_ += blanks;
        return *this;
    }

  private:
    char* at_;
};

} // namespace shadowmon
