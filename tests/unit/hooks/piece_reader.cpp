// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/hooks/piece_reader.h"

#include <optional>

namespace shadowmon::test {

namespace {

class Reader {
  public:
    Reader(std::span<const std::byte> piece, Gva at, bool interrupts)
        : piece_(piece), at_(at), on_(interrupts) {}

    std::string read(const Displaced& displaced) {
        for (const Instruction& instruction : displaced.instructions) {
            if (left_)
                return "an instruction behind one that leaves";
            if (auto wrong = one(instruction); !wrong.empty())
                return "`" + instruction.text() + "`: " + wrong;
        }
        if (!left_)
            if (auto wrong = exit_to(displaced.end()); !wrong.empty())
                return wrong;
        return offset_ == piece_.size() ? "" : "bytes are left";
    }

  private:
    std::string one(const Instruction& original) {
        switch (original.info.mnemonic) {
        case ZYDIS_MNEMONIC_CLI:
            on_ = false;
            return "";
        case ZYDIS_MNEMONIC_STI:
            on_ = true;
            return "";
        case ZYDIS_MNEMONIC_PUSHFQ:
            if (!is("pushfq"))
                return "no pushfq";
            return !on_ || (is("pushfq") && is("or qword ptr [rsp+0x08], 0x200") && is("popfq"))
                       ? ""
                       : "IF is not set in what it pushed";
        default:
            break;
        }
        switch (original.info.meta.category) {
        case ZYDIS_CATEGORY_COND_BR:
            return conditional(original);
        case ZYDIS_CATEGORY_UNCOND_BR:
            left_ = true;
            return original.branch_target() ? exit_to(*original.branch_target())
                                            : indirect(original, 0);
        case ZYDIS_CATEGORY_CALL: {
            left_ = true;
            auto push = next();
            if (!push || push->info.mnemonic != ZYDIS_MNEMONIC_PUSH ||
                push->operands[0].imm.value.u != original.end().value)
                return "another return address";
            return original.branch_target() ? exit_to(*original.branch_target())
                                            : indirect(original, 8);
        }
        case ZYDIS_CATEGORY_RET: {
            left_ = true;
            if (on_ && !is("sti"))
                return "no sti before ret";
            auto ret = next();
            return ret && ret->text() == original.text() ? "" : "another return";
        }
        default:
            break;
        }
        auto moved = next();
        return moved && same(original, *moved) ? "" : "became `" + text_of(moved) + "`";
    }

    std::string conditional(const Instruction& original) {
        left_ = true;
        auto branch = next();
        // The prefix chooses the counter; to other branches it means nothing.
        bool counts = (original.info.opcode & 0xf0) == 0xe0;
        if (!branch || branch->info.mnemonic != original.info.mnemonic ||
            (counts && branch->info.address_width != original.info.address_width) ||
            !branch->branch_target())
            return "became `" + text_of(branch) + "`";
        if (auto wrong = exit_to(original.end()); !wrong.empty())
            return "not taken: " + wrong;
        if (*branch->branch_target() != at_ + offset_)
            return "it jumps elsewhere in the piece";
        if (auto wrong = exit_to(*original.branch_target()); !wrong.empty())
            return "taken: " + wrong;
        return "";
    }

    /// A jump through what `original` names; `pushed` bytes are on the stack since.
    std::string indirect(const Instruction& original, int64_t pushed) {
        if (on_ && !is("sti"))
            return "no sti before it";
        auto jump = next();
        if (!jump || jump->info.mnemonic != ZYDIS_MNEMONIC_JMP)
            return "became `" + text_of(jump) + "`";
        ZydisDecodedOperand want = original.operands[0];
        if (want.type == ZYDIS_OPERAND_TYPE_MEMORY && want.mem.base == ZYDIS_REGISTER_RSP)
            want.mem.disp.value += pushed;
        return same_operand(original, want, *jump, jump->operands[0])
                   ? ""
                   : "jumps through another place";
    }

    std::string exit_to(Gva target) {
        auto first = next();
        if (on_ && first && first->info.mnemonic == ZYDIS_MNEMONIC_STI) {
            auto jump = next();
            return jump && jump->branch_target() == target ? "" : "leaves for elsewhere";
        }
        if (first && first->info.mnemonic == ZYDIS_MNEMONIC_JMP && !on_)
            return first->branch_target() == target ? "" : "leaves for elsewhere";
        if (!first || first->info.mnemonic != ZYDIS_MNEMONIC_PUSH ||
            first->operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return "does not leave but `" + text_of(first) + "`";
        if (first->operands[0].imm.value.u != target.value)
            return "leaves for elsewhere";
        if (on_ && !is("sti"))
            return "no sti before it leaves";
        return is("ret") ? "" : "does not leave";
    }

    static std::string text_of(const std::optional<Instruction>& instruction) {
        return instruction ? instruction->text() : "nothing";
    }

    std::optional<Instruction> next() {
        auto instruction = Instruction::decode(at_ + offset_, piece_.subspan(offset_));
        if (instruction)
            offset_ += instruction->length();
        return instruction;
    }

    bool is(const char* text) {
        auto instruction = next();
        return instruction && instruction->text() == text;
    }

    static uint64_t address_part(const Instruction& in, const ZydisDecodedOperand& op) {
        uint64_t base = op.mem.base == ZYDIS_REGISTER_RIP ? in.end().value : 0;
        return base + static_cast<uint64_t>(op.mem.disp.value);
    }

    static bool same_operand(const Instruction& a, const ZydisDecodedOperand& x,
                             const Instruction& b, const ZydisDecodedOperand& y) {
        if (x.type != y.type || x.size != y.size)
            return false;
        switch (x.type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            return x.reg.value == y.reg.value;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            return x.imm.value.u == y.imm.value.u;
        case ZYDIS_OPERAND_TYPE_MEMORY: {
            bool absolute = x.mem.base == ZYDIS_REGISTER_RIP && y.mem.base == ZYDIS_REGISTER_NONE;
            return (absolute || x.mem.base == y.mem.base) && x.mem.index == y.mem.index &&
                   x.mem.scale == y.mem.scale && x.mem.segment == y.mem.segment &&
                   x.mem.type == y.mem.type && address_part(a, x) == address_part(b, y);
        }
        default:
            return false;
        }
    }

    static bool same(const Instruction& a, const Instruction& b) {
        if (a.info.mnemonic != b.info.mnemonic || a.info.operand_count != b.info.operand_count ||
            a.info.operand_width != b.info.operand_width ||
            a.info.address_width != b.info.address_width || a.info.encoding != b.info.encoding ||
            (a.info.attributes & effects) != (b.info.attributes & effects))
            return false;
        for (unsigned i = 0; i < a.info.operand_count; i++)
            if (a.operands[i].actions != b.operands[i].actions ||
                !same_operand(a, a.operands[i], b, b.operands[i]))
                return false;
        return true;
    }

    static constexpr ZydisInstructionAttributes effects =
        ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
        ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_SEGMENT | ZYDIS_ATTRIB_HAS_NOTRACK;

    std::span<const std::byte> piece_;
    Gva at_;
    bool on_;
    bool left_ = false;
    size_t offset_ = 0;
};

} // namespace

std::string read_piece(const Displaced& displaced, std::span<const std::byte> piece, Gva at,
                       bool interrupts) {
    return Reader(piece, at, interrupts).read(displaced);
}

} // namespace shadowmon::test
