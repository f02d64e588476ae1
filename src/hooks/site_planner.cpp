// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/site_planner.h"

#include "abi/layout.h"

#include <optional>

namespace shadowmon {

namespace {

/// A prologue longer than this has left the part where arguments stay put.
constexpr unsigned max_instructions = 32;

bool ends_straight_line(const Instruction& instruction) {
    switch (instruction.info.meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        return instruction.info.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
               instruction.branch_target().has_value();
    }
}

bool plain_class(const Instruction& instruction) {
    switch (instruction.info.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
        return true;
    default:
        return false;
    }
}

bool general_register(ZydisRegister reg) {
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_FLAGS:
    case ZYDIS_REGCLASS_IP:
        return true;
    default:
        return false;
    }
}

/// Memory that is there as long as the function runs: the stack, kernel data named
/// by RIP, per-CPU data.
bool safe_memory(const ZydisDecodedOperand& op) {
    if (op.mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (op.mem.index != ZYDIS_REGISTER_NONE)
        return false;
    switch (op.mem.base) {
    case ZYDIS_REGISTER_RSP:
    case ZYDIS_REGISTER_RIP:
        return true;
    case ZYDIS_REGISTER_NONE:
        return op.mem.segment == ZYDIS_REGISTER_GS;
    default:
        return false;
    }
}

/// True if a direct jump or call of the function leads into (first, end), or to first.
bool jumped_into(const SiteRequest& request, Gva first, Gva end) {
    size_t offset = 0;
    while (offset < request.code.size()) {
        auto instruction =
            Instruction::decode(request.start + offset, request.code.subspan(offset));
        if (!instruction) {
            // Data or a trap between code: go on at the next byte.
            offset++;
            continue;
        }
        if (auto target = instruction->branch_target(); target && *target >= first && *target < end)
            return true;
        offset += instruction->length();
    }
    return false;
}

} // namespace

const char* describe(PrologueRefusal refusal) {
    switch (refusal) {
    case PrologueRefusal::none:
        return "can carry a hook";
    case PrologueRefusal::undecodable:
        return "no instruction";
    case PrologueRefusal::hooked_already:
        return "carries a hook already";
    case PrologueRefusal::patched_by_guest:
        return "a place that the kernel patches itself";
    case PrologueRefusal::too_short:
        return "shorter than a hook";
    case PrologueRefusal::page_crossing:
        return "crosses a page";
    case PrologueRefusal::control_flow:
        return "changes the flow of control";
    case PrologueRefusal::unsafe_class:
        return "not a plain move, arithmetic, push or pop";
    case PrologueRefusal::memory:
        return "uses memory that may not be mapped";
    case PrologueRefusal::special_register:
        return "uses a special register";
    case PrologueRefusal::jump_target:
        return "a jump leads there";
    }
    return "";
}

PrologueRefusal judge_prologue(const Instruction& instruction) {
    if (instruction.info.mnemonic == ZYDIS_MNEMONIC_INT &&
        instruction.operands[0].imm.value.u == 0x14)
        return PrologueRefusal::hooked_already;
    bool nop = instruction.info.mnemonic == ZYDIS_MNEMONIC_NOP ||
               (instruction.info.mnemonic == ZYDIS_MNEMONIC_XCHG &&
                instruction.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                instruction.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                instruction.operands[0].reg.value == instruction.operands[1].reg.value);
    if (nop || instruction.info.mnemonic == ZYDIS_MNEMONIC_ENDBR64)
        return PrologueRefusal::patched_by_guest;
    if (ends_straight_line(instruction))
        return PrologueRefusal::control_flow;
    if (instruction.length() < hook_bytes.size())
        return PrologueRefusal::too_short;
    if (instruction.address.page() != (instruction.end() - 1).page())
        return PrologueRefusal::page_crossing;
    if (!plain_class(instruction) || (instruction.info.attributes & ZYDIS_ATTRIB_HAS_LOCK))
        return PrologueRefusal::unsafe_class;
    for (unsigned i = 0; i < instruction.info.operand_count; i++) {
        const ZydisDecodedOperand& op = instruction.operands[i];
        if (op.type == ZYDIS_OPERAND_TYPE_REGISTER && !general_register(op.reg.value))
            return PrologueRefusal::special_register;
        if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && !safe_memory(op))
            return PrologueRefusal::memory;
    }
    return PrologueRefusal::none;
}

Result<Site> plan_site(const SiteRequest& request) {
    std::optional<Instruction> chosen;
    std::string looked_at;
    size_t offset = 0;
    for (unsigned n = 0; n < max_instructions && offset < request.code.size(); n++) {
        Gva address = request.start + offset;
        auto instruction = Instruction::decode(address, request.code.subspan(offset));
        PrologueRefusal refusal =
            instruction ? judge_prologue(*instruction) : PrologueRefusal::undecodable;
        if (refusal == PrologueRefusal::none && jumped_into(request, address, instruction->end()))
            refusal = PrologueRefusal::jump_target;
        if (refusal == PrologueRefusal::hooked_already)
            return failf("{} carries a hook at {:#x} already: a leftover, or another monitor's",
                         request.function, address.value);
        if (refusal == PrologueRefusal::none) {
            bool relative = instruction->rip_relative() != nullptr;
            if (!chosen || !relative)
                chosen = instruction;
            if (!relative)
                break;
        }
        looked_at += fmt::format("{}+{:#x} `{}` ({})", looked_at.empty() ? "" : ", ", offset,
                                 instruction ? instruction->text() : "?", describe(refusal));
        if (!instruction || ends_straight_line(*instruction))
            break;
        bool overwritten = false;
        for (ZydisRegister reg : request.keep)
            overwritten |= instruction->writes(reg);
        if (overwritten)
            break;
        offset += instruction->length();
    }
    if (!chosen)
        return failf("no instruction at the start of {} can carry a hook: {}", request.function,
                     looked_at.empty() ? "it has no code" : looked_at);
    auto bytes = request.code.subspan(chosen->address - request.start, chosen->length());
    return Site{chosen->address, *chosen, {bytes.begin(), bytes.end()}};
}

} // namespace shadowmon
