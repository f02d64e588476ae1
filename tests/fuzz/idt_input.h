// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>

namespace shadowmon::test {

/// An input of fuzz_idt: this, then the code, of which the first part is entry code. A function
/// begins at each multiple of IdtFunction.
struct IdtInput {
    struct Gate {
        uint16_t offset; ///< of the handler, from the beginning of the code
        uint8_t flags;   ///< as in the gate: present, privilege, type
        uint8_t wild;    ///< odd: the handler is outside of the code
    };
    static constexpr unsigned Gates = 24; ///< from vector 32 on
    uint16_t entry_size;
    uint16_t irqentry_enter, irqentry_exit, irq_enter_rcu, irq_exit_rcu; ///< offsets
    Gate gate[Gates];
};
static_assert(sizeof(IdtInput) == 10 + 4 * IdtInput::Gates);
constexpr uint64_t IdtText = 0xffffffff81000000;
constexpr unsigned IdtFunction = 64;

} // namespace shadowmon::test
