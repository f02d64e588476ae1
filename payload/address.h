/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest addresses as types. In the shadow view a guest-virtual address can be loaded from once it
 * is known not to fault; a guest-physical one has to go through the direct map first.
 */
#ifndef SHADOWMONITOR_PAYLOAD_ADDRESS_H
#define SHADOWMONITOR_PAYLOAD_ADDRESS_H

#include <cstddef>
#include <cstdint>

namespace shadowmon::payload {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

enum class Gva : u64 {};
enum class Gpa : u64 {};

constexpr u64 raw(Gva a) { return static_cast<u64>(a); }
constexpr u64 raw(Gpa a) { return static_cast<u64>(a); }
constexpr Gva operator+(Gva a, u64 n) { return Gva{raw(a) + n}; }
constexpr Gpa operator+(Gpa a, u64 n) { return Gpa{raw(a) + n}; }

} // namespace shadowmon::payload

/*
 * What every event runs is one function without calls: sm_payload_event() in payload.cpp takes all
 * that it calls into itself, except what is marked so.
 */
#define SM_COLD [[gnu::noinline, gnu::cold]]

#endif
