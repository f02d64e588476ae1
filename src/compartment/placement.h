// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/memory.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace shadowmon {

/// Draws 64 random bits; the system's source is getrandom(2).
using RandomSource = std::function<Result<uint64_t>()>;
Result<uint64_t> system_random();

/// A page-aligned guest-physical address for the hidden region: random, above all of
/// `occupied` (the VM's memory slots), below 2^phys_bits. Fails if there is no room.
Result<Gpa> choose_region(const std::vector<RamRange>& occupied, unsigned phys_bits, uint32_t pages,
                          const RandomSource& random = system_random);

} // namespace shadowmon
