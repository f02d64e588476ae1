// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/displace.h"

#include <span>
#include <string>

namespace shadowmon::test {

/// Reads a piece of displaced code instruction by instruction and compares it with what was
/// displaced: the same operations on the same operands and addresses, the same return address,
/// the same ways on, interrupts switched on right before each of them if they have to be.
/// Knows nothing of how the piece was made. Returns what is wrong, or nothing.
std::string read_piece(const Displaced& displaced, std::span<const std::byte> piece, Gva at,
                       bool interrupts);

} // namespace shadowmon::test
