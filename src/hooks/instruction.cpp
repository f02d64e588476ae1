// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/instruction.h"

namespace shadowmon {

namespace {

const ZydisDecoder& decoder() {
    static const ZydisDecoder decoder = [] {
        ZydisDecoder d;
        ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        return d;
    }();
    return decoder;
}

} // namespace

std::optional<Instruction> Instruction::decode(Gva address, std::span<const std::byte> bytes) {
    Instruction out;
    out.address = address;
    if (bytes.empty() || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(
                             &decoder(), bytes.data(), bytes.size(), &out.info, out.operands)))
        return std::nullopt;
    return out;
}

bool Instruction::decode_head(std::span<const std::byte> bytes, ZydisDecodedInstruction& info) {
    return !bytes.empty() && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                                 &decoder(), nullptr, bytes.data(), bytes.size(), &info));
}

std::string Instruction::text() const {
    static const ZydisFormatter formatter = [] {
        ZydisFormatter f;
        ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
        return f;
    }();
    char buffer[128];
    if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &info, operands,
                                                      info.operand_count_visible, buffer,
                                                      sizeof(buffer), address.value, nullptr)))
        return "(bad)";
    return buffer;
}

const ZydisDecodedOperand* Instruction::rip_relative() const {
    for (unsigned i = 0; i < info.operand_count; i++) {
        const ZydisDecodedOperand& op = operands[i];
        if (op.type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (op.mem.base == ZYDIS_REGISTER_RIP || op.mem.base == ZYDIS_REGISTER_EIP))
            return &op;
    }
    return nullptr;
}

std::optional<Gva> Instruction::branch_target() const {
    for (unsigned i = 0; i < info.operand_count_visible; i++) {
        const ZydisDecodedOperand& op = operands[i];
        if (op.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op.imm.is_relative)
            return Gva(end().value + op.imm.value.u);
    }
    return std::nullopt;
}

bool Instruction::writes(ZydisRegister reg) const {
    for (unsigned i = 0; i < info.operand_count; i++) {
        const ZydisDecodedOperand& op = operands[i];
        if (op.type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op.reg.value) == reg)
            return true;
    }
    return false;
}

} // namespace shadowmon
