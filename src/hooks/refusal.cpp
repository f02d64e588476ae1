// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/refusal.h"

namespace shadowmon {

namespace {

struct Text {
    const char* name;
    const char* clause;
};

Text text_of(Refusal refusal) {
    switch (refusal) {
    case Refusal::none:
        return {"none", "it can be hooked"};
    case Refusal::not_kernel_text:
        return {"not_kernel_text", "this is no code of the kernel"};
    case Refusal::no_instruction:
        return {"no_instruction", "the bytes there are no instruction"};
    case Refusal::inside_instruction:
        return {"inside_instruction", "it is inside an instruction"};
    case Refusal::unclear_code:
        return {"unclear_code", "bytes before it in its function are no code, so it is not known "
                                "where instructions begin"};
    case Refusal::padding:
        return {"padding", "it is padding between functions, which is not executed"};
    case Refusal::breakpoint:
        return {"breakpoint", "the guest has a breakpoint there: a probe of its own"};
    case Refusal::hooked_already:
        return {"hooked_already", "it carries a hook already: a leftover, or another monitor's"};
    case Refusal::trap:
        return {"trap", "it raises an exception, and the kernel looks up at which address"};
    case Refusal::far_transfer:
        return {"far_transfer", "it enters or leaves the kernel"};
    case Refusal::per_cpu_base:
        return {"per_cpu_base", "it changes GS, where the kernel and the payload find the CPU"};
    case Refusal::waits:
        return {"waits", "it waits for an interrupt, and displaced code runs with interrupts off"};
    case Refusal::interrupt_shadow:
        return {"interrupt_shadow", "it holds interrupts off for the instruction behind it only"};
    case Refusal::interrupt_flag:
        return {"interrupt_flag", "it may switch interrupts on in the compartment"};
    case Refusal::page_tables:
        return {"page_tables", "it may replace the page tables that lead to the compartment"};
    case Refusal::descriptor_table:
        return {"descriptor_table", "it loads a descriptor table that the gate depends on"};
    case Refusal::emulated:
        return {"emulated", "KVM emulates it and would have to read it in the compartment"};
    case Refusal::hypervisor:
        return {"hypervisor", "it is addressed to a hypervisor or to secure firmware"};
    case Refusal::transaction:
        return {"transaction", "it belongs to a transaction, which the hook would abort"};
    case Refusal::fpu_address:
        return {"fpu_address", "the FPU remembers its address for software to read"};
    case Refusal::speculation:
        return {"speculation", "its address or its order of calls and returns protects the guest "
                               "against speculation"};
    case Refusal::encoding:
        return {"encoding", "this form of the instruction cannot be moved"};
    case Refusal::unlisted:
        return {"unlisted", "this kind of instruction is not known to be safe"};
    case Refusal::static_key:
        return {"static_key", "the kernel patches it: a static key"};
    case Refusal::static_call:
        return {"static_call", "the kernel patches it: a static call"};
    case Refusal::ftrace:
        return {"ftrace", "the kernel patches it: ftrace's place at a function's entry"};
    case Refusal::cpu_feature:
        return {"cpu_feature", "the kernel patches it when a second CPU comes: a LOCK prefix"};
    case Refusal::exception_table:
        return {"exception_table", "it may fault, and the kernel looks up at which address"};
    case Refusal::endbr:
        return {"endbr", "indirect branch tracking is on and needs the ENDBR64 to be there"};
    case Refusal::init_code:
        return {"init_code", "it is code for booting, whose memory is given back"};
    case Refusal::entry_code:
        return {"entry_code", "it is entry code, which may run on the user's page tables, GS and "
                              "stack"};
    case Refusal::noinstr:
        return {"noinstr", "it is noinstr code: exception paths, where the kernel's own state is "
                           "not set up"};
    case Refusal::gs_window:
        return {"gs_window", "its function runs partly with the user's GS"};
    case Refusal::other_mappings:
        return {"other_mappings", "it runs, or a copy of it, under other page tables or another "
                                  "IDT"};
    case Refusal::page_crossing:
        return {"page_crossing", "the two bytes of the hook would lie on two pages"};
    case Refusal::jumped_into:
        return {"jumped_into", "a jump leads into it"};
    case Refusal::jump_target:
        return {"jump_target", "it is one byte long and a jump leads to the instruction behind it"};
    case Refusal::computed_jump:
        return {"computed_jump", "it is one byte long and its function has a computed jump, which "
                                 "may lead behind it"};
    case Refusal::no_successor:
        return {"no_successor", "it is one byte long and another function begins behind it"};
    case Refusal::successor:
        return {"successor", "it is one byte long and the instruction behind it cannot be "
                             "displaced"};
    case Refusal::out_of_reach:
        return {"out_of_reach", "what it names is out of reach of the displaced code"};
    }
    return {"", ""};
}

} // namespace

const char* describe(Refusal refusal) { return text_of(refusal).clause; }

const char* name(Refusal refusal) { return text_of(refusal).name; }

} // namespace shadowmon
