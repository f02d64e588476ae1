// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/hook_planner.h"

#include "src/hooks/movable.h"

namespace shadowmon {

namespace {

constexpr uint8_t ds_prefix = 0x3e;
constexpr std::byte int3{0xcc};

bool is_endbr(const Instruction& instruction) {
    return instruction.info.mnemonic == ZYDIS_MNEMONIC_ENDBR64;
}

/// ENDBR64, or the NOP of its size that the kernel puts there when nobody calls indirectly.
bool marks_entry(const Instruction& instruction) {
    constexpr uint8_t endbr_size = 4;
    return is_endbr(instruction) || (is_nop(instruction) && instruction.length() == endbr_size);
}

/// A LOCK prefix that became a DS prefix.
bool lost_its_lock(const Instruction& instruction) {
    return has_prefix(instruction, ds_prefix) &&
           (instruction.info.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK);
}

} // namespace

HookPlanner::HookPlanner(KernelCode code, HookPolicy policy, const Kallsyms* symbols,
                         std::string module)
    : code_(std::move(code)), policy_(policy), symbols_(symbols), module_(std::move(module)) {}

/// An INT3 stands alone if it is the guest's: padding comes in runs, or behind what never
/// falls through.
bool HookPlanner::is_padding(Gva at, const Function& function) const {
    bool run = at + 1 < function.end && code_.map.bytes(at + 1, at + 2)[0] == int3;
    return at != function.unclear_from || run || function_limit(function) != Refusal::none;
}

Refusal HookPlanner::function_limit(const Function& function) const {
    return code_.functions[*code_.map.function_number(function.start)];
}

Refusal HookPlanner::judge_place(Gva at) const {
    const Function* function = code_.map.function(at);
    if (!function) {
        Refusal limit = code_.limits.at(at);
        return limit == Refusal::none ? Refusal::not_kernel_text : limit;
    }
    bool start = code_.map.is_start(at);
    if (start && code_.map.bytes(at, at + 1)[0] == int3)
        return is_padding(at, *function) ? Refusal::padding : Refusal::breakpoint;
    Refusal limit = function_limit(*function);
    if (limit != Refusal::none && !(limit == Refusal::noinstr && policy_.noinstr))
        return limit;
    if (function->changes_gs)
        return Refusal::gs_window;
    if (at >= function->unclear_from)
        return at == function->unclear_from && !start ? Refusal::no_instruction
                                                      : Refusal::unclear_code;
    return start ? Refusal::none : Refusal::inside_instruction;
}

Refusal HookPlanner::judge_one(const Instruction& instruction, const Function& function) const {
    if (Refusal refusal = judge_move(instruction); refusal != Refusal::none)
        return refusal;
    Gva at = instruction.address;
    if (Refusal use = code_.kernel_use(at); use != Refusal::none)
        return use;
    if (code_.faults_are_repaired(at) && may_fault(instruction))
        return Refusal::exception_table;
    // Also where ftrace's own list could not be read: the NOP that begins a function.
    if (instruction.length() == call_hook_size && is_nop(instruction)) {
        auto first = code_.map.instruction(function.start);
        if (at == function.start || (first && marks_entry(*first) && at == first->end()))
            return Refusal::ftrace;
    }
    if (is_endbr(instruction) && policy_.branch_tracking)
        return Refusal::endbr;
    return lost_its_lock(instruction) ? Refusal::cpu_feature : Refusal::none;
}

/// Of a NOP in ftrace's list.
Judgement HookPlanner::judge_call(const Instruction& nop) const {
    for (Gva at = nop.address + 1; at < nop.end(); at = at + 1)
        if (code_.map.is_target(at))
            return {Refusal::jumped_into};
    return {.displaced = 1, .gate = Gate::call};
}

/// Whether anything can go on at the second byte of the hook.
Refusal HookPlanner::judge_second_byte(const Instruction& first, const Function& function) const {
    Gva second = first.address + 1;
    if (!code_.map.contains(second))
        return Refusal::no_successor;
    if (first.address.page() != second.page())
        return Refusal::page_crossing;
    if (first.length() > 1)
        return code_.map.is_target(second) ? Refusal::jumped_into : Refusal::none;
    if (second >= function.end)
        return Refusal::no_successor;
    // What the kernel patches behind a return is reached by jumps.
    bool patched = !falls_through(flow_of(first)) && code_.kernel_use(second) != Refusal::none;
    if (code_.map.is_target(second) || patched)
        return Refusal::jump_target;
    bool padding = code_.map.bytes(second, second + 1)[0] == int3;
    return function.computed_jump && !padding ? Refusal::computed_jump : Refusal::none;
}

Judgement HookPlanner::judge_run(Gva at, const Function& function) const {
    Judgement out;
    size_t bytes = 0;
    for (;;) {
        auto instruction = code_.map.instruction(at + bytes);
        if (!instruction)
            return {out.displaced ? Refusal::no_successor : Refusal::no_instruction};
        if (policy_.call_gate && out.displaced == 0 && is_nop(*instruction) &&
            instruction->length() == call_hook_size &&
            code_.kernel_use(instruction->address) == Refusal::ftrace)
            return judge_call(*instruction);
        Refusal refusal = judge_one(*instruction, function);
        if (refusal == Refusal::none && out.displaced == 0)
            refusal = judge_second_byte(*instruction, function);
        else if (refusal != Refusal::none && out.displaced > 0)
            return {Refusal::successor, refusal};
        if (refusal != Refusal::none)
            return {refusal};
        out.displaced++;
        bytes += instruction->length();
        bool shields = instruction->info.mnemonic == ZYDIS_MNEMONIC_STI;
        if (!falls_through(flow_of(*instruction)) || (bytes >= hook_bytes.size() && !shields))
            return out;
        if (out.displaced == max_displaced)
            return {Refusal::encoding};
        if (at + bytes >= function.unclear_from)
            return {Refusal::no_successor};
    }
}

Judgement HookPlanner::judge(Gva at) const {
    if (Refusal place = judge_place(at); place != Refusal::none) {
        auto there = place == Refusal::unclear_code ? code_.map.instruction(at) : std::nullopt;
        if (there && judge_move(*there) == Refusal::hooked_already)
            return {Refusal::hooked_already};
        return {place};
    }
    return judge_run(at, *code_.map.function(at));
}

Displaced HookPlanner::displaced(Gva at, const Judgement& judgement) const {
    Displaced out;
    out.gate = judgement.gate;
    Gva end = at;
    for (unsigned i = 0; i < judgement.displaced; i++) {
        auto instruction = code_.map.instruction(end);
        if (!instruction)
            break;
        end = instruction->end();
        out.instructions.push_back(*instruction);
    }
    auto bytes = code_.map.bytes(at, end);
    out.bytes.assign(bytes.begin(), bytes.end());
    return out;
}

std::string in_module(const std::string& module, std::string_view name) {
    return module.empty() ? std::string(name) : fmt::format("{}:{}", module, name);
}

std::string HookPlanner::where(Gva at) const {
    auto symbol = symbols_ ? symbols_->find_by_address(at) : std::nullopt;
    if (!symbol)
        return fmt::format("{:#x}", at.value);
    uint64_t offset = at.value - symbol->value;
    return in_module(module_, offset ? fmt::format("{}+{:#x}", symbol->name, offset)
                                     : std::string(symbol->name));
}

/// The instructions before and behind an address that is inside one.
std::string HookPlanner::neighbours(Gva at) const {
    auto before = code_.map.start_around(at);
    auto around = before ? code_.map.instruction(*before) : std::nullopt;
    if (!around)
        return {};
    std::string text = fmt::format(" (`{}` begins at {}", around->text(), where(*before));
    if (auto next = code_.map.instruction(around->end()))
        text += fmt::format(", the next one, `{}`, at {}", next->text(), where(around->end()));
    return text + ")";
}

Result<Displaced> HookPlanner::plan(Gva at) const {
    Judgement judgement = judge(at);
    if (judgement.refusal == Refusal::none)
        return displaced(at, judgement);
    std::string message =
        fmt::format("{} cannot be hooked: {}", where(at), describe(judgement.refusal));
    auto there = code_.map.instruction(at);
    if (judgement.refusal == Refusal::inside_instruction)
        message += neighbours(at);
    else if (there)
        message += fmt::format(" (`{}`)", there->text());
    if (judgement.refusal == Refusal::successor) {
        auto next = there ? code_.map.instruction(there->end()) : std::nullopt;
        message +=
            fmt::format("; of `{}`: {}", next ? next->text() : "?", describe(judgement.successor));
    }
    return fail(Error(message));
}

} // namespace shadowmon
