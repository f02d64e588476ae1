// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <compare>
#include <cstdint>

namespace shadowmon {

/// An address of one kind; kinds do not mix. Differences are plain byte counts.
template <typename Kind> struct Address {
    uint64_t value = 0;

    constexpr Address() = default;
    constexpr explicit Address(uint64_t v) : value(v) {}

    constexpr auto operator<=>(const Address&) const = default;
    constexpr Address operator+(uint64_t bytes) const { return Address(value + bytes); }
    constexpr Address operator-(uint64_t bytes) const { return Address(value - bytes); }
    constexpr uint64_t operator-(Address other) const { return value - other.value; }
    constexpr uint64_t page_offset() const { return value & 0xfff; }
    constexpr Address page() const { return Address(value & ~uint64_t{0xfff}); }
};

using Gva = Address<struct GvaKind>; ///< guest-virtual
using Gpa = Address<struct GpaKind>; ///< guest-physical
using Hva = Address<struct HvaKind>; ///< virtual in the VMM's process

} // namespace shadowmon
