// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/movable.h"

#include <algorithm>

namespace shadowmon {

namespace {

/// A call this short is no call: it fills the return stack buffer.
constexpr int64_t stuffing_distance = 16;

bool writes_operand(const ZydisDecodedOperand& op) {
    return op.type == ZYDIS_OPERAND_TYPE_REGISTER && (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

bool far_branch(const Instruction& instruction) {
    switch (instruction.info.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_UIRET:
    case ZYDIS_MNEMONIC_RSM:
        return true;
    default:
        return instruction.info.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    }
}

/// Registers whose change matters beyond the instruction.
Refusal judge_special_registers(const Instruction& instruction) {
    for (unsigned i = 0; i < instruction.info.operand_count; i++) {
        const ZydisDecodedOperand& op = instruction.operands[i];
        if (!writes_operand(op))
            continue;
        switch (op.reg.value) {
        case ZYDIS_REGISTER_CR0:
        case ZYDIS_REGISTER_CR3:
            return Refusal::page_tables;
        case ZYDIS_REGISTER_SS:
            return Refusal::interrupt_shadow;
        case ZYDIS_REGISTER_GS:
            return Refusal::per_cpu_base;
        case ZYDIS_REGISTER_CS:
            return Refusal::far_transfer;
        default:
            break;
        }
    }
    return Refusal::none;
}

/// The instructions that are refused one by one.
Refusal judge_mnemonic(const Instruction& instruction) {
    switch (instruction.info.mnemonic) {
    case ZYDIS_MNEMONIC_INT:
        return instruction.operands[0].imm.value.u == 0x14 ? Refusal::hooked_already
                                                           : Refusal::trap;
    case ZYDIS_MNEMONIC_INT3:
        return Refusal::padding;
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return Refusal::trap;
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_WRGSBASE:
        return Refusal::per_cpu_base;
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_TPAUSE:
        return Refusal::waits;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHF: // 16 bits
        return Refusal::interrupt_flag;
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
        return Refusal::descriptor_table;
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LMSW:
        return Refusal::emulated;
    case ZYDIS_MNEMONIC_ENCLS:
    case ZYDIS_MNEMONIC_ENCLU:
    case ZYDIS_MNEMONIC_ENCLV:
    case ZYDIS_MNEMONIC_GETSEC:
    case ZYDIS_MNEMONIC_INVLPGB:
    case ZYDIS_MNEMONIC_PSMASH:
    case ZYDIS_MNEMONIC_PVALIDATE:
    case ZYDIS_MNEMONIC_RMPADJUST:
    case ZYDIS_MNEMONIC_RMPUPDATE:
    case ZYDIS_MNEMONIC_TDCALL:
    case ZYDIS_MNEMONIC_TLBSYNC:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMFUNC:
    case ZYDIS_MNEMONIC_VMMCALL:
        return Refusal::hypervisor;
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XEND:
        return Refusal::transaction;
    default:
        return Refusal::none;
    }
}

/// Privileged instructions that do the same wherever they are.
bool plain_system(ZydisMnemonic mnemonic) {
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV:
        return true;
    default:
        return false;
    }
}

/// FPU instructions that leave the address of the last one alone.
bool fpu_control(ZydisMnemonic mnemonic) {
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FLDCW:
        return true;
    default:
        return false;
    }
}

Refusal judge_category(const Instruction& instruction) {
    switch (instruction.info.meta.category) {
    case ZYDIS_CATEGORY_ADOX_ADCX:
    case ZYDIS_CATEGORY_AES:
    case ZYDIS_CATEGORY_AVX:
    case ZYDIS_CATEGORY_AVX2:
    case ZYDIS_CATEGORY_AVX2GATHER:
    case ZYDIS_CATEGORY_AVX512:
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_BLEND:
    case ZYDIS_CATEGORY_BMI1:
    case ZYDIS_CATEGORY_BMI2:
    case ZYDIS_CATEGORY_BROADCAST:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_CLFLUSHOPT:
    case ZYDIS_CATEGORY_CLWB:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_COMPRESS:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_CONFLICT:
    case ZYDIS_CATEGORY_CONVERT:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_EXPAND:
    case ZYDIS_CATEGORY_FLAGOP:
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_GFNI:
    case ZYDIS_CATEGORY_IFMA:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_KMASK:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_LZCNT:
    case ZYDIS_CATEGORY_MISC:
    case ZYDIS_CATEGORY_MMX:
    case ZYDIS_CATEGORY_MOVDIR:
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_PCLMULQDQ:
    case ZYDIS_CATEGORY_PKU:
    case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_PREFETCH:
    case ZYDIS_CATEGORY_PREFETCHWT1:
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_RDPID:
    case ZYDIS_CATEGORY_RDRAND:
    case ZYDIS_CATEGORY_RDSEED:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_SCATTER:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SEMAPHORE:
    case ZYDIS_CATEGORY_SERIALIZE:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_SHA:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_SMAP:
    case ZYDIS_CATEGORY_SSE:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_STTNI:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_VAES:
    case ZYDIS_CATEGORY_VBMI2:
    case ZYDIS_CATEGORY_VFMA:
    case ZYDIS_CATEGORY_VPCLMULQDQ:
    case ZYDIS_CATEGORY_WIDENOP:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
        return Refusal::none;
    case ZYDIS_CATEGORY_CET:
        return instruction.info.mnemonic == ZYDIS_MNEMONIC_ENDBR64 ? Refusal::none
                                                                   : Refusal::unlisted;
    case ZYDIS_CATEGORY_IOSTRINGOP:
        return Refusal::emulated;
    case ZYDIS_CATEGORY_SYSTEM:
        return plain_system(instruction.info.mnemonic) ? Refusal::none : Refusal::unlisted;
    case ZYDIS_CATEGORY_VTX:
        return Refusal::hypervisor;
    case ZYDIS_CATEGORY_X87_ALU:
        return fpu_control(instruction.info.mnemonic) ? Refusal::none : Refusal::fpu_address;
    default:
        return Refusal::unlisted;
    }
}

constexpr uint8_t repe = 0xf3;
constexpr uint8_t repne = 0xf2;

/// Branches whose moved form would not be the same.
Refusal judge_branch(const Instruction& instruction) {
    // Intel ignores the prefix, AMD goes to a 16-bit address.
    if (instruction.info.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
        return Refusal::encoding;
    // To LOOPE and LOOPNE, some processors give the REP prefixes a meaning.
    if (counts_down(instruction) &&
        (has_prefix(instruction, repe) || has_prefix(instruction, repne)))
        return Refusal::encoding;
    if (flow_of(instruction) != Flow::call)
        return Refusal::none;
    const ZydisDecodedOperand& op = instruction.operands[0];
    if (op.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op.imm.value.s >= 0 &&
        op.imm.value.s <= stuffing_distance)
        return Refusal::speculation;
    // The moved form pushes first and reads its operand then.
    if (op.type == ZYDIS_OPERAND_TYPE_REGISTER && op.reg.value == ZYDIS_REGISTER_RSP)
        return Refusal::encoding;
    if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && op.mem.base == ZYDIS_REGISTER_RSP &&
        (op.mem.index != ZYDIS_REGISTER_NONE || op.mem.disp.value < 0))
        return Refusal::encoding;
    return Refusal::none;
}

bool is_branch(const Instruction& instruction) {
    return instruction.info.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
           instruction.branch_target().has_value();
}

} // namespace

Flow flow_of(const Instruction& instruction) {
    switch (instruction.info.meta.category) {
    case ZYDIS_CATEGORY_CALL:
        return Flow::call;
    case ZYDIS_CATEGORY_UNCOND_BR:
        return Flow::jump;
    case ZYDIS_CATEGORY_COND_BR:
        return Flow::branch;
    case ZYDIS_CATEGORY_RET:
        return Flow::ret;
    default:
        return Flow::next;
    }
}

bool counts_down(const Instruction& instruction) {
    return instruction.info.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
           instruction.info.opcode >= 0xe0 && instruction.info.opcode <= 0xe3;
}

bool has_prefix(const Instruction& instruction, uint8_t prefix) {
    const auto& raw = instruction.info.raw;
    return std::any_of(raw.prefixes, raw.prefixes + raw.prefix_count,
                       [prefix](const auto& one) { return one.value == prefix; });
}

bool is_nop(const Instruction& instruction) {
    // With 32-bit registers, XCHG clears the upper halves.
    return instruction.info.mnemonic == ZYDIS_MNEMONIC_NOP ||
           (instruction.info.mnemonic == ZYDIS_MNEMONIC_XCHG &&
            instruction.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            instruction.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            instruction.operands[0].size != 32 &&
            instruction.operands[0].reg.value == instruction.operands[1].reg.value);
}

bool may_fault(const Instruction& instruction) {
    return !is_nop(instruction) && instruction.info.mnemonic != ZYDIS_MNEMONIC_ENDBR64 &&
           instruction.info.mnemonic != ZYDIS_MNEMONIC_LEA;
}

Refusal judge_move(const Instruction& instruction) {
    if (far_branch(instruction))
        return Refusal::far_transfer;
    if (Refusal refusal = judge_mnemonic(instruction); refusal != Refusal::none)
        return refusal;
    if (Refusal refusal = judge_category(instruction); refusal != Refusal::none)
        return refusal;
    if (is_branch(instruction))
        return judge_branch(instruction);
    if (Refusal refusal = judge_special_registers(instruction); refusal != Refusal::none)
        return refusal;
    const ZydisDecodedOperand* relative = instruction.rip_relative();
    if (relative && relative->mem.base == ZYDIS_REGISTER_EIP)
        return Refusal::encoding;
    return Refusal::none;
}

} // namespace shadowmon
