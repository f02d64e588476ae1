// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>

namespace shadowmon {

/// Why there can be no hook at an address; none: there can.
enum class Refusal {
    none,

    // What is there.
    not_kernel_text,    ///< no code of the kernel
    no_instruction,     ///< the bytes are none
    inside_instruction, ///< not the first byte of one
    unclear_code, ///< bytes before it in its function are no code, so nobody knows where it begins
    padding,      ///< between functions: INT3, or the NOPs in front of an entry
    breakpoint,   ///< an INT3 that something leads to: the guest's own probe
    hooked_already, ///< an INT 20: a leftover, or another monitor's

    // The instruction itself.
    trap,             ///< raises an exception whose address the kernel looks up
    far_transfer,     ///< enters or leaves the kernel, or changes the code segment
    per_cpu_base,     ///< changes GS
    waits,            ///< would wait for ever with interrupts off
    interrupt_shadow, ///< holds interrupts off for the instruction behind it
    interrupt_flag,   ///< may switch interrupts on or off, depending on data
    page_tables,      ///< replaces the page tables that lead to the displaced code
    descriptor_table, ///< loads a table that the gate needs
    emulated,         ///< the hypervisor has to read it, and cannot in the compartment
    hypervisor,       ///< talks to a hypervisor or to secure firmware
    transaction,      ///< begins or ends a transaction, which a hook would abort
    fpu_address,      ///< the processor keeps its address where software can read it
    speculation,      ///< is there for what it does to the processor's predictions
    encoding,         ///< a form whose meaning differs between processors, or that cannot be moved
    unlisted,         ///< not known to be safe

    // What the kernel does with the place.
    static_key,      ///< a jump label, which the kernel patches
    static_call,     ///< a static call, which the kernel patches
    ftrace,          ///< the place of ftrace at the entry of a function, or its trampolines
    cpu_feature,     ///< a LOCK prefix that the kernel took away while it had one CPU
    exception_table, ///< a fault there is repaired by address
    endbr,           ///< the CPU requires it: indirect branch tracking is on

    // Where it is.
    init_code,      ///< gone after boot
    entry_code,     ///< runs on the user's page tables, GS or stack
    noinstr,        ///< runs before the kernel's own state is set up, in its exception paths
    gs_window,      ///< its function runs partly with the user's GS
    other_mappings, ///< runs, or is copied to where it runs, under other page tables or another IDT
    page_crossing,  ///< the bytes of the hook would lie on two pages

    // Its neighbours.
    jumped_into,   ///< something jumps between the two bytes of the hook, into one instruction
    jump_target,   ///< one byte long, and something jumps to the instruction behind it
    computed_jump, ///< one byte long, and nobody knows where its function's indirect jumps lead
    no_successor,  ///< one byte long, and the next byte is another function's
    successor,     ///< one byte long, and the instruction behind it cannot be displaced

    out_of_reach, ///< the displaced code cannot name what it has to
};
inline constexpr size_t refusal_count = static_cast<size_t>(Refusal::out_of_reach) + 1;

/// A clause that completes "it cannot be hooked: ...".
const char* describe(Refusal refusal);

/// One word, for tables and machines: as the enumerator is spelt.
const char* name(Refusal refusal);

} // namespace shadowmon
