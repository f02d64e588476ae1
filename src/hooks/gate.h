// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"

#include <array>
#include <cstddef>
#include <shadowmonitor/hooks.h>

namespace shadowmon {

/// One word, for lists and machines.
const char* name(Gate gate);

/// The bytes of a hook: INT 20.
inline constexpr std::array<std::byte, 2> hook_bytes{std::byte{0xcd}, std::byte{0x14}};
inline constexpr size_t call_hook_size = 5;

constexpr size_t hook_size(Gate gate) {
    return gate == Gate::interrupt ? hook_bytes.size() : call_hook_size;
}

/// A CALL at `at` of `target`, which is within reach.
std::array<std::byte, call_hook_size> call_hook(Gva at, Gva target);

} // namespace shadowmon
