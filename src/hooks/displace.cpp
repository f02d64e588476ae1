// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/displace.h"

#include "src/hooks/emitter.h"
#include "src/hooks/movable.h"

#include <algorithm>

namespace shadowmon {

namespace {

using Bytes = std::vector<std::byte>;

constexpr std::byte rex_x{0x02};
constexpr std::byte mod_disp32{0x80};
constexpr std::byte rm_sib{0x04};
constexpr std::byte sib_no_base_no_index{0x25};
constexpr std::byte modrm_reg_mask{0x38};
constexpr std::byte group5_jmp{4 << 3}; // FF /4; FF /2 is the call

uint64_t memory_target(const Instruction& instruction, const ZydisDecodedOperand& op) {
    auto displacement = static_cast<uint64_t>(op.mem.disp.value);
    if (op.mem.base == ZYDIS_REGISTER_RIP)
        return instruction.end().value + displacement;
    return displacement;
}

void put_int32(Bytes& bytes, size_t at, uint64_t value) {
    for (unsigned i = 0; i < 4; i++)
        bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
}

/// With the absolute address `target` for an operand relative to RIP: one byte longer.
Bytes with_absolute_operand(const Instruction& instruction, Bytes bytes, uint64_t target) {
    const auto& raw = instruction.info.raw;
    // A SIB byte has an index where RIP has none; a stray bit would choose one.
    if (instruction.info.attributes & ZYDIS_ATTRIB_HAS_REX)
        bytes[raw.rex.offset] &= ~rex_x;
    put_int32(bytes, raw.disp.offset, target);
    bytes[raw.modrm.offset] = (bytes[raw.modrm.offset] & ~std::byte{7}) | rm_sib;
    bytes.insert(bytes.begin() + raw.modrm.offset + 1, sib_no_base_no_index);
    return bytes;
}

/// `call` through a register or memory as a `jmp` through it.
Bytes call_as_jump(const Instruction& instruction, Bytes bytes) {
    std::byte& modrm = bytes[instruction.info.raw.modrm.offset];
    modrm = (modrm & ~modrm_reg_mask) | group5_jmp;
    return bytes;
}

/// [rsp + disp] as it has to read after a push.
Bytes with_pushed_stack(const Instruction& instruction, const Bytes& bytes) {
    const auto& raw = instruction.info.raw;
    Bytes out(bytes.begin(), bytes.begin() + raw.sib.offset + 1);
    out[raw.modrm.offset] = (out[raw.modrm.offset] & std::byte{0x3f}) | mod_disp32;
    size_t at = out.size();
    out.resize(at + 4);
    put_int32(out, at, static_cast<uint64_t>(instruction.operands[0].mem.disp.value + 8));
    return out;
}

class Mover {
  public:
    Mover(Gva to, bool interrupts_on) : out_(to), on_(interrupts_on) {}

    Status move(const Instruction& instruction, std::span<const std::byte> bytes) {
        if (left_)
            return failf("`{}` stands behind an instruction that does not lead to it",
                         instruction.text());
        if (Refusal refusal = judge_move(instruction); refusal != Refusal::none)
            return failf("`{}` cannot be displaced: {}", instruction.text(), describe(refusal));
        switch (flow_of(instruction)) {
        case Flow::next:
            return move_plain(instruction, bytes);
        case Flow::branch:
            return move_branch(instruction);
        case Flow::jump:
            return move_jump(instruction, bytes);
        case Flow::call:
            return move_call(instruction, bytes);
        case Flow::ret:
            out_.leave_by(bytes, on_);
            left_ = true;
            return {};
        }
        return {};
    }

    Status leave(Gva target) { return left_ ? Status() : out_.leave(target, on_); }

    const Bytes& code() const { return out_.code(); }

  private:
    Status move_plain(const Instruction& instruction, std::span<const std::byte> bytes) {
        switch (instruction.info.mnemonic) {
        case ZYDIS_MNEMONIC_CLI: // They are off already.
            on_ = false;
            return {};
        case ZYDIS_MNEMONIC_STI: // They come on with the jump back.
            on_ = true;
            return {};
        case ZYDIS_MNEMONIC_PUSHFQ:
            out_.emit(bytes);
            // pushfq; or qword ptr [rsp + 8], 0x200; popfq: sets IF in the pushed flags.
            if (on_)
                out_.emit({0x9c, 0x48, 0x81, 0x4c, 0x24, 0x08, 0x00, 0x02, 0x00, 0x00, 0x9d});
            return {};
        default:
            break;
        }
        auto moved = rebase(instruction, bytes, out_.here());
        if (!moved)
            return fail(moved.error());
        out_.emit(*moved);
        return {};
    }

    /// jcc taken; leave for the next instruction; taken: leave for the target.
    Status move_branch(const Instruction& instruction) {
        constexpr unsigned op_jcc_rel8 = 0x70;
        constexpr size_t short_size = 2;
        constexpr unsigned address_size_prefix = 0x67;
        const auto& info = instruction.info;
        auto target = instruction.branch_target();
        if (!target)
            return failf("`{}` has no target", instruction.text());
        // LOOP and JRCXZ have a short form only, and their prefix says which counter.
        bool counts = counts_down(instruction);
        bool prefixed = counts && (info.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE);
        Emitter next(out_.here() + (prefixed ? 1 : 0) + short_size);
        SM_TRY(next.leave(instruction.end(), on_));
        if (prefixed)
            out_.emit({address_size_prefix});
        out_.emit({counts ? info.opcode : op_jcc_rel8 | (info.opcode & 0xfu),
                   static_cast<unsigned>(next.code().size())});
        out_.emit(next.code());
        left_ = true;
        return out_.leave(*target, on_);
    }

    Status move_jump(const Instruction& instruction, std::span<const std::byte> bytes) {
        left_ = true;
        if (auto target = instruction.branch_target())
            return out_.leave(*target, on_);
        auto moved = rebase(instruction, bytes, out_.here() + (on_ ? 1 : 0));
        if (!moved)
            return fail(moved.error());
        out_.leave_by(*moved, on_);
        return {};
    }

    /// push the original return address; leave for the target.
    Status move_call(const Instruction& instruction, std::span<const std::byte> bytes) {
        left_ = true;
        SM_TRY(out_.push(instruction.end()));
        if (auto target = instruction.branch_target())
            return out_.leave(*target, on_);
        const ZydisDecodedOperand& op = instruction.operands[0];
        auto moved = rebase(instruction, bytes, out_.here() + (on_ ? 1 : 0));
        if (!moved)
            return fail(moved.error());
        Bytes jump = call_as_jump(instruction, *moved);
        if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && op.mem.base == ZYDIS_REGISTER_RSP)
            jump = with_pushed_stack(instruction, jump);
        out_.leave_by(jump, on_);
        return {};
    }

    Emitter out_;
    bool on_; ///< interrupts, as the instructions have them so far
    bool left_ = false;
};

} // namespace

bool equivalent(const Instruction& a, const Instruction& b) {
    constexpr ZydisInstructionAttributes prefixes =
        ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
        ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_NOTRACK | ZYDIS_ATTRIB_HAS_SEGMENT;
    if (a.info.mnemonic != b.info.mnemonic || a.info.operand_count != b.info.operand_count ||
        a.info.operand_width != b.info.operand_width ||
        a.info.address_width != b.info.address_width ||
        (a.info.attributes & prefixes) != (b.info.attributes & prefixes))
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

Result<Bytes> rebase(const Instruction& instruction, std::span<const std::byte> bytes, Gva to) {
    bytes = bytes.first(instruction.length());
    Bytes out(bytes.begin(), bytes.end());
    const ZydisDecodedOperand* relative = instruction.rip_relative();
    if (!relative)
        return out;
    uint64_t target = memory_target(instruction, *relative);
    uint64_t distance = target - (to + instruction.length()).value;
    if (fits_int32(distance))
        put_int32(out, instruction.info.raw.disp.offset, distance);
    else if (fits_int32(target))
        // Modules, and per-CPU variables: an offset from GS that is a small number.
        out = with_absolute_operand(instruction, std::move(out), target);
    else
        return failf("`{}` names an address out of reach of {:#x}", instruction.text(), to.value);
    auto again = Instruction::decode(to, out);
    if (!again || again->length() != out.size() || !equivalent(instruction, *again))
        return failf("`{}` came out as something else at {:#x}", instruction.text(), to.value);
    return out;
}

Result<Bytes> displace(const Displaced& displaced, Gva to, bool interrupts_on) {
    Mover mover(to, interrupts_on);
    std::span<const std::byte> rest(displaced.bytes);
    for (const Instruction& instruction : displaced.instructions) {
        SM_TRY(mover.move(instruction, rest.first(instruction.length())));
        rest = rest.subspan(instruction.length());
    }
    SM_TRY(mover.leave(displaced.end()));
    if (mover.code().size() > max_piece_size)
        return failf("the displaced form of `{}` takes {} bytes",
                     displaced.instructions.front().text(), mover.code().size());
    return mover.code();
}

} // namespace shadowmon
