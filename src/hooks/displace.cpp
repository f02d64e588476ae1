// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/displace.h"

#include <cstring>
#include <limits>

namespace shadowmon {

namespace {

constexpr std::byte int3{0xcc};
constexpr std::byte sti{0xfb};
constexpr std::byte jmp_rel32{0xe9};
constexpr size_t jmp_size = 5;
constexpr size_t alignment = 16;

uint64_t memory_target(const Instruction& instruction, const ZydisDecodedOperand& op) {
    uint64_t displacement = static_cast<uint64_t>(op.mem.disp.value);
    if (op.mem.base == ZYDIS_REGISTER_RIP)
        return instruction.end().value + displacement;
    return displacement;
}

/// The same operation on the same operands, wherever the two instructions are.
bool equivalent(const Instruction& a, const Instruction& b) {
    if (a.info.mnemonic != b.info.mnemonic || a.info.operand_count != b.info.operand_count ||
        a.info.operand_width != b.info.operand_width)
        return false;
    for (unsigned i = 0; i < a.info.operand_count; i++) {
        const ZydisDecodedOperand& x = a.operands[i];
        const ZydisDecodedOperand& y = b.operands[i];
        if (x.type != y.type || x.actions != y.actions || x.size != y.size)
            return false;
        switch (x.type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (x.reg.value != y.reg.value)
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (x.imm.value.u != y.imm.value.u)
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY: {
            auto plain = [](ZydisRegister base) {
                return base == ZYDIS_REGISTER_RIP ? ZYDIS_REGISTER_NONE : base;
            };
            if (x.mem.segment != y.mem.segment || x.mem.index != y.mem.index ||
                (x.mem.index != ZYDIS_REGISTER_NONE && x.mem.scale != y.mem.scale) ||
                plain(x.mem.base) != plain(y.mem.base) ||
                memory_target(a, x) != memory_target(b, y))
                return false;
            break;
        }
        default:
            return false;
        }
    }
    return true;
}

bool encode(ZydisEncoderRequest request, Gva to, std::vector<std::byte>& out) {
    out.resize(ZYDIS_MAX_INSTRUCTION_LENGTH);
    ZyanUSize length = out.size();
    if (!ZYAN_SUCCESS(
            ZydisEncoderEncodeInstructionAbsolute(&request, out.data(), &length, to.value)))
        return false;
    out.resize(length);
    return true;
}

} // namespace

Result<std::vector<std::byte>> displace(const Instruction& instruction,
                                        std::span<const std::byte> bytes, Gva to) {
    if (instruction.branch_target() || instruction.info.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return failf("`{}` changes the flow of control", instruction.text());
    const ZydisDecodedOperand* relative = instruction.rip_relative();
    bytes = bytes.first(instruction.length());
    if (!relative)
        return std::vector<std::byte>(bytes.begin(), bytes.end());

    ZydisEncoderRequest request;
    if (!ZYAN_SUCCESS(ZydisEncoderDecodedInstructionToEncoderRequest(
            &instruction.info, instruction.operands, instruction.info.operand_count_visible,
            &request)))
        return failf("`{}` has no form for another address", instruction.text());
    uint64_t target = memory_target(instruction, *relative);
    ZydisEncoderOperand* memory = nullptr;
    for (unsigned i = 0; i < request.operand_count; i++)
        if (request.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            memory = &request.operands[i];
    if (!memory)
        return failf("`{}` names memory in a way that has no other form", instruction.text());
    memory->mem.displacement = static_cast<ZyanI64>(target);

    std::vector<std::byte> out;
    bool done = encode(request, to, out);
    auto target_signed = static_cast<int64_t>(target);
    if (!done && target_signed >= std::numeric_limits<int32_t>::min() &&
        target_signed <= std::numeric_limits<int32_t>::max()) {
        // Per-CPU variables: an offset from GS that is a small number, out of reach of
        // RIP from the compartment but an absolute address by itself.
        memory->mem.base = ZYDIS_REGISTER_NONE;
        done = encode(request, to, out);
    }
    if (!done)
        return failf("`{}` names an address out of reach of {:#x}", instruction.text(), to.value);
    auto again = Instruction::decode(to, out);
    if (!again || again->length() != out.size() || !equivalent(instruction, *again))
        return failf("`{}` came out as something else at {:#x}", instruction.text(), to.value);
    return out;
}

DisplacedCode::DisplacedCode(Gva base, size_t max_size) : base_(base), max_size_(max_size) {
    // Code that got lost to the start of a page meets an INT3, not a displaced instruction.
    code_.assign(alignment, int3);
}

Result<Gva> DisplacedCode::emit(const Instruction& instruction, std::span<const std::byte> bytes,
                                bool with_sti) {
    Gva at = base_ + code_.size();
    auto moved = displace(instruction, bytes, at);
    if (!moved)
        return fail(moved.error());
    std::vector<std::byte> piece = *moved;
    if (with_sti)
        piece.push_back(sti);
    auto back =
        static_cast<int64_t>(instruction.end().value - (at.value + piece.size() + jmp_size));
    if (back < std::numeric_limits<int32_t>::min() || back > std::numeric_limits<int32_t>::max())
        return failf("{:#x} is out of reach of the displaced instructions at {:#x}",
                     instruction.address.value, at.value);
    auto rel = static_cast<int32_t>(back);
    piece.push_back(jmp_rel32);
    const auto* rel_bytes = reinterpret_cast<const std::byte*>(&rel);
    piece.insert(piece.end(), rel_bytes, rel_bytes + sizeof(rel));
    piece.resize((piece.size() + alignment - 1) / alignment * alignment, int3);
    if (code_.size() + piece.size() > max_size_)
        return failf("no room for more displaced instructions: {} bytes are taken", code_.size());
    code_.insert(code_.end(), piece.begin(), piece.end());
    return at;
}

Result<Resume> DisplacedCode::add(const Instruction& instruction,
                                  std::span<const std::byte> bytes) {
    size_t before = code_.size();
    auto if1 = emit(instruction, bytes, true);
    auto if0 = if1 ? emit(instruction, bytes, false) : if1;
    if (!if0) {
        code_.resize(before);
        return fail(if0.error());
    }
    return Resume{*if1, *if0};
}

} // namespace shadowmon
