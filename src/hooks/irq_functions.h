// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/idt.h"
#include "src/guest/kallsyms.h"
#include "src/hooks/code_map.h"

#include <span>
#include <string>
#include <vector>

namespace shadowmon {

/// One C function that the entry code of interrupts calls, and the places in it between which an
/// interrupt is handled: behind where it has told the kernel that an interrupt has come in (RCU,
/// context tracking, time accounting), before it tells that it is over. All of them are on the
/// kernel's page tables, GS and stack, with interrupts off.
struct IrqFunction {
    Gva start;
    std::vector<uint8_t> vectors; ///< that lead to it, ascending
    /// Many vectors share it: at its entries the vector is the second argument of a call.
    bool is_line = false;
    std::vector<Gva> entries; ///< ascending
    std::vector<Gva> exits;
};

/// Vectors that lead somewhere, but to no function with such places.
struct UnwatchedVectors {
    std::vector<uint8_t> vectors;
    Gva handler; ///< the function, or where the gate leads
    std::string why;
};

struct IrqFunctions {
    std::vector<IrqFunction> watched;
    std::vector<UnwatchedVectors> unwatched;
};

/// What every kernel with the generic entry code has (Linux 5.8 and later): the bounds of its
/// entry code, and the functions that bracket an interrupt.
struct IrqLandmarks {
    Gva entry_start, entry_end;
    Gva irqentry_enter, irqentry_exit;
    Gva irq_enter_rcu, irq_exit_rcu;

    static Result<IrqLandmarks> find(const Kallsyms& symbols);
};

/// Follows the gates of a kernel's IDT, from vector 32 on, through the entry code to the C
/// functions, and reads those. Neither vectors nor names of handlers are known beforehand:
///
///   gate -> entry -> (jump) -> call of the first function outside the entry code: F
///   F:  call irqentry_enter; ...
///       call irq_enter_rcu; ...; call HANDLER; ...; call irq_exit_rcu   once per stack
///       ...; jmp irqentry_exit
///
/// The entries are the calls of HANDLER, the exits where these return to: what softirqs do, which
/// run in irq_exit_rcu, is not in between. A function without irq_enter_rcu has its handler within
/// itself: its entry is where irqentry_enter returns to, its exits are the jumps to irqentry_exit.
///
/// Gates of privilege 3 are left out: programs raise them. IDT and code are the guest's; whatever
/// they hold, the work is bounded.
IrqFunctions find_irq_functions(std::span<const IdtEntry> idt, const CodeMap& code,
                                const IrqLandmarks& landmarks);

} // namespace shadowmon
