// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"

#include <cstdint>

namespace shadowmon {

/// An IDT entry of 64-bit mode.
struct IdtEntry {
    uint64_t low = 0, high = 0;

    /// DPL 0, IST 0.
    static IdtEntry interrupt_gate(Gva handler, uint16_t selector) {
        constexpr uint64_t present_interrupt_gate = uint64_t{0x8e} << 40;
        IdtEntry entry;
        entry.low = (handler.value & 0xffff) | uint64_t{selector} << 16 | present_interrupt_gate |
                    (handler.value >> 16 & 0xffff) << 48;
        entry.high = handler.value >> 32;
        return entry;
    }
    bool present() const { return low >> 47 & 1; }
    Gva handler() const {
        return Gva((low & 0xffff) | (low >> 48) << 16 | (high & 0xffffffff) << 32);
    }
    uint16_t selector() const { return static_cast<uint16_t>(low >> 16); }
    unsigned dpl() const { return low >> 45 & 3; } ///< 3: programs may raise it by INT
    unsigned type() const { return low >> 40 & 0xf; }

    static constexpr unsigned interrupt_gate_type = 0xe; ///< it switches interrupts off
};
static_assert(sizeof(IdtEntry) == 16);

} // namespace shadowmon
