// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/explain.h"

#include "src/hooks/displaced_code.h"
#include "src/hooks/movable.h"

#include <algorithm>

namespace shadowmon {

namespace {

constexpr unsigned instructions_before = 3;
constexpr unsigned instructions_behind = 3;

std::string name_of(const HookPlanner& planner, const KernelInfo& kernel, Gva at) {
    // Zydis has the number already; only a symbol says more.
    if (planner.code().map.contains(at))
        return planner.where(at);
    auto symbol = kernel.image.contains(at) ? kernel.symbols.find_by_address(at) : std::nullopt;
    if (!symbol)
        return "";
    uint64_t offset = at.value - symbol->value;
    return offset ? fmt::format("{}+{:#x}", symbol->name, offset) : std::string(symbol->name);
}

ListedInstruction listed(const HookPlanner& planner, const KernelInfo& kernel,
                         const Instruction& instruction, std::span<const std::byte> bytes) {
    ListedInstruction out;
    out.address = instruction.address;
    bytes = bytes.first(instruction.length());
    out.bytes.assign(bytes.begin(), bytes.end());
    out.text = instruction.text();
    if (auto target = instruction.branch_target())
        out.names = name_of(planner, kernel, *target);
    else if (const auto* operand = instruction.rip_relative())
        out.names = name_of(planner, kernel,
                            instruction.end() + static_cast<uint64_t>(operand->mem.disp.value));
    return out;
}

/// Of the kernel's text. Nothing where no instruction begins.
std::optional<ListedInstruction> listed_at(const HookPlanner& planner, const KernelInfo& kernel,
                                           Gva at) {
    const CodeMap& map = planner.code().map;
    auto instruction = map.instruction(at);
    if (!instruction)
        return std::nullopt;
    auto out = listed(planner, kernel, *instruction, map.bytes(at, instruction->end()));
    out.is_target = map.is_target(at);
    return out;
}

std::vector<ListedInstruction> list_around(const HookPlanner& planner, const KernelInfo& kernel,
                                           const Function& function, Gva at, unsigned displaced) {
    const CodeMap& map = planner.code().map;
    Gva first = map.start_around(at).value_or(at);
    for (unsigned n = 0; n < instructions_before && first > function.start; n++)
        first = map.start_around(first - 1).value_or(first);
    std::vector<ListedInstruction> out;
    unsigned behind = 0;
    for (Gva next = first; next < function.end;) {
        auto one = listed_at(planner, kernel, next);
        if (!one) { // no code, or bytes that belong to a trap
            next = next + 1;
            continue;
        }
        next = next + one->bytes.size();
        if (next > at && behind++ == std::max(displaced, 1u) + instructions_behind)
            break;
        out.push_back(std::move(*one));
    }
    return out;
}

std::vector<ListedInstruction> disassemble(const HookPlanner& planner, const KernelInfo& kernel,
                                           Gva at, std::span<const std::byte> code) {
    std::vector<ListedInstruction> out;
    while (auto instruction = Instruction::decode(at, code)) {
        out.push_back(listed(planner, kernel, *instruction, code));
        at = instruction->end();
        code = code.subspan(instruction->length());
    }
    return out;
}

Status list_pieces(const HookPlanner& planner, const KernelInfo& kernel, const Displaced& displaced,
                   Gva page, std::vector<ListedPiece>& out) {
    DisplacedCode code(page, SM_DISPLACED_MAX_SIZE);
    auto resume = code.add(displaced);
    if (!resume)
        return fail(resume.error());
    for (bool interrupts_on : {true, false}) {
        Gva at = interrupts_on ? resume->if1 : resume->if0;
        auto piece = displace(displaced, at, interrupts_on);
        if (!piece)
            return fail(piece.error());
        out.push_back({interrupts_on, at, disassemble(planner, kernel, at, *piece)});
    }
    return {};
}

} // namespace

Explanation explain(const HookPlanner& planner, const KernelInfo& kernel, Gva at, Gva page) {
    const CodeMap& map = planner.code().map;
    Explanation out;
    out.address = at;
    const Kallsyms& symbols = planner.module().empty() ? kernel.symbols : *planner.symbols();
    if (auto symbol = symbols.find_by_address(at)) {
        out.symbol = in_module(planner.module(), symbol->name);
        out.offset = at.value - symbol->value;
    }
    const Judgement judgement = planner.judge(at);
    if (judgement.refusal != Refusal::none)
        out.reason = name(judgement.refusal);
    auto there = map.instruction(at);
    out.call_site = there && is_nop(*there) && there->length() == call_hook_size &&
                    (judgement.gate == Gate::call || judgement.refusal == Refusal::ftrace);
    if (const Function* function = map.function(at)) {
        out.function_start = function->start;
        out.function_end = function->end;
        out.around = list_around(planner, kernel, *function, at, judgement.displaced);
    }
    auto plan = planner.plan(at);
    if (!plan) {
        out.refusal = plan.error().message();
        return out;
    }
    if (plan->gate == Gate::call) {
        // Nothing has to run elsewhere.
    } else if (auto status = list_pieces(planner, kernel, *plan, page, out.pieces); !status) {
        out.reason = name(Refusal::out_of_reach);
        out.refusal = fmt::format("{} cannot be hooked: {} ({})", planner.where(at),
                                  describe(Refusal::out_of_reach), status.error().message());
        out.pieces.clear();
        return out;
    }
    for (const Instruction& instruction : plan->instructions)
        out.displaced.push_back(*listed_at(planner, kernel, instruction.address));
    out.gate = plan->gate;
    return out;
}

} // namespace shadowmon
