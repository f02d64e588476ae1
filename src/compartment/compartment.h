// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/compartment/layout.h"
#include "src/compartment/payload_image.h"
#include "src/guest/idt.h"

#include <optional>
#include <span>
#include <vector>

namespace shadowmon {

/// What goes into the compartment besides the payload itself.
struct CompartmentContents {
    sm_config config{}; ///< guest part; the sizes are filled in by fill_region
    std::vector<sm_hook> hooks;
    std::span<const std::byte> displaced;
};

/// Fills the region, which is all zeroes, as `layout` says: page tables, payload with
/// the gate's chain jump set to the guest's own handler, configuration, hook table,
/// slots, empty rings. After this it is ready to be protected and armed.
Status fill_region(const Layout& layout, const PayloadImage& payload,
                   const CompartmentContents& contents, Gpa region_gpa,
                   std::span<std::byte> region);

/// The parts of hooks that come and go.
std::span<sm_hook> hooks_in(const Layout& layout, std::span<std::byte> region);
std::span<std::byte> displaced_in(const Layout& layout, std::span<std::byte> region);
std::span<sm_limit> limits_in(const Layout& layout, std::span<std::byte> region);

/// The counters of one slot; enum sm_counter says how they are arranged.
std::span<const uint64_t> counters_in(const Layout& layout, std::span<std::byte> region,
                                      uint32_t index);

/// The parts that the host reads events from.
sm_ring* ring_in(const Layout& layout, std::span<std::byte> region, uint32_t index);
std::span<const std::byte> ring_data_in(const Layout& layout, std::span<std::byte> region,
                                        uint32_t index);
sm_slot* slot_in(const Layout& layout, std::span<std::byte> region, uint32_t index);

/// The vector of the gate, which is also that of #VE.
inline constexpr unsigned gate_vector = 20;

/// True if an address lies in the compartment's range.
bool in_compartment(Gva gva);

/// The slot to whose stack a stack pointer belongs.
std::optional<uint32_t> slot_of_stack(Gva rsp);

} // namespace shadowmon
