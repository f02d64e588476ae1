// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/hooks/trial.h"

#include "src/hooks/movable.h"

#include <csignal>
#include <cstring>

namespace shadowmon::test {

namespace {

constexpr size_t stack_middle = Fence::stack_size / 2;
constexpr size_t data_middle = Fence::data_size / 2;
/// Below the stack pointer nothing lives; an interrupt would use it, and so do pieces.
constexpr uint64_t dead_stack = 64;

enum Gpr { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi };

constexpr const char* gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

std::optional<unsigned> gpr_of(ZydisRegister reg) {
    if (reg == ZYDIS_REGISTER_NONE)
        return std::nullopt;
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64)
        return std::nullopt;
    return static_cast<unsigned>(ZydisRegisterGetId(whole));
}

uint64_t random_data(Random& random, bool aligned) {
    uint64_t at = Fence::data().value + data_middle + (random() % 1024 & ~uint64_t{63});
    return aligned ? at : at + random() % 64;
}

uint64_t random_target(Random& random) { return Fence::targets().value + random() % 4000; }

bool is_atomic(const Instruction& instruction) {
    return (instruction.info.attributes & ZYDIS_ATTRIB_HAS_LOCK) ||
           (instruction.info.mnemonic == ZYDIS_MNEMONIC_XCHG &&
            instruction.info.raw.modrm.mod != 3);
}

/// An atomic operand across two cache lines stops the whole machine: its owner may make whoever
/// does that wait for long, and no kernel has one.
bool wants_alignment(const Instruction& instruction) {
    if (is_atomic(instruction))
        return true;
    switch (instruction.info.meta.category) {
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_SSE:
        return true;
    default:
        break;
    }
    for (unsigned i = 0; i < instruction.info.operand_count; i++)
        if (instruction.operands[i].size >= 128)
            return true;
    return false;
}

uint64_t segment_base(const ZydisDecodedOperand& op) {
    return op.mem.segment == ZYDIS_REGISTER_GS ? Fence::gs_base().value : 0;
}

bool names_address(const ZydisDecodedOperand& op) {
    return op.type == ZYDIS_OPERAND_TYPE_MEMORY && op.mem.index == ZYDIS_REGISTER_NONE &&
           (op.mem.base == ZYDIS_REGISTER_NONE || op.mem.base == ZYDIS_REGISTER_RIP);
}

void put(std::vector<std::byte>& bytes, size_t at, unsigned size, uint64_t value) {
    std::memcpy(bytes.data() + at, &value, size / 8);
}

bool has(const Displaced& displaced, ZydisMnemonic mnemonic) {
    for (const Instruction& instruction : displaced.instructions)
        if (instruction.info.mnemonic == mnemonic)
            return true;
    return false;
}

} // namespace

std::string not_for_user_mode(const Displaced& displaced) {
    for (const Instruction& instruction : displaced.instructions) {
        auto mnemonic = instruction.info.mnemonic;
        if (mnemonic == ZYDIS_MNEMONIC_STI || mnemonic == ZYDIS_MNEMONIC_CLI)
            continue; // The fence does them.
        if ((instruction.info.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) ||
            instruction.info.meta.category == ZYDIS_CATEGORY_IO)
            return "privileged";
        if (mnemonic == ZYDIS_MNEMONIC_WRFSBASE)
            return "would take the test's own FS";
        for (unsigned i = 0; i < instruction.info.operand_count; i++) {
            const ZydisDecodedOperand& op = instruction.operands[i];
            if (op.type == ZYDIS_OPERAND_TYPE_REGISTER &&
                (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
                ZydisRegisterGetClass(op.reg.value) == ZYDIS_REGCLASS_SEGMENT)
                return "loads a segment";
            if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && op.mem.segment == ZYDIS_REGISTER_FS)
                return "uses the test's own FS";
        }
    }
    return "";
}

std::optional<Displaced> bring_into_fence(const Displaced& displaced, Random& random) {
    Displaced out;
    out.bytes = displaced.bytes;
    Gva at = Fence::original();
    Gva end = at + out.bytes.size();
    for (const Instruction& instruction : displaced.instructions) {
        size_t offset = instruction.address - displaced.address();
        Gva next = at + instruction.length();
        const auto& raw = instruction.info.raw;
        if (raw.imm[0].is_relative && raw.imm[0].size == 32) {
            put(out.bytes, offset + raw.imm[0].offset, 32, random_target(random) - next.value);
        } else if (raw.imm[0].is_relative) {
            Gva target = next + raw.imm[0].value.u;
            if (target >= Fence::original() && target < end)
                return std::nullopt; // Would go round for ever.
        }
        for (unsigned i = 0; i < instruction.info.operand_count; i++) {
            const ZydisDecodedOperand& op = instruction.operands[i];
            if (!names_address(op) || raw.disp.size < 32)
                continue;
            uint64_t value = random_data(random, wants_alignment(instruction)) - segment_base(op);
            if (op.mem.base == ZYDIS_REGISTER_RIP)
                value -= next.value;
            put(out.bytes, offset + raw.disp.offset, raw.disp.size, value);
        }
        auto again = Instruction::decode(at, std::span(out.bytes).subspan(offset));
        if (!again || again->length() != instruction.length())
            return std::nullopt;
        out.instructions.push_back(*again);
        at = next;
    }
    return out;
}

namespace {

/// Chooses one state; remembers which registers already have a task.
class Chooser {
  public:
    Chooser(const Displaced& code, Fence& fence, Random& random)
        : code_(code), fence_(fence), random_(random) {}

    Registers choose() {
        fill_memory();
        fill_registers();
        for (const Instruction& instruction : code_.instructions) {
            choose_counts(instruction);
            for (unsigned i = 0; i < instruction.info.operand_count; i++)
                if (instruction.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
                    place(instruction, instruction.operands[i]);
            choose_values(instruction);
        }
        return r_;
    }

  private:
    uint64_t random_value() {
        switch (random_() % 4) {
        case 0:
            return random_data(random_, random_() % 2);
        case 1:
            return random_() % 256;
        default:
            return random_();
        }
    }

    void fill_memory() {
        fill(fence_.data_at_start());
        fill(fence_.stack_at_start());
        bool returns = has(code_, ZYDIS_MNEMONIC_RET);
        auto stack = fence_.stack_at_start();
        for (size_t at = 0; returns && at + 8 <= stack.size(); at += 8) {
            uint64_t target = random_target(random_);
            std::memcpy(stack.data() + at, &target, sizeof(target));
        }
    }

    void fill(std::span<std::byte> memory) {
        for (size_t at = 0; at + 8 <= memory.size(); at += 8) {
            uint64_t value = random_();
            if (value % 4 == 0)
                value = Fence::data().value + data_middle + (value >> 8) % 1024;
            else if (value % 4 == 1)
                value = (value >> 8) % 256;
            std::memcpy(memory.data() + at, &value, sizeof(value));
        }
    }

    void fill_registers() {
        for (uint64_t& value : r_.gpr)
            value = random_value();
        r_.gpr[rsp] = stack_pointer();
        if (random_() % 2 || has(code_, ZYDIS_MNEMONIC_LEAVE))
            r_.gpr[rbp] = stack_pointer() & ~uint64_t{15};
        if (has(code_, ZYDIS_MNEMONIC_LEAVE))
            fixed_[rbp] = true;
        fixed_[rsp] = true;
        r_.flags = random_();
        for (auto* vectors : {&r_.xmm, &r_.ymm_high})
            for (std::byte& b : *vectors)
                b = static_cast<std::byte>(random_());
    }

    uint64_t stack_pointer() { return Fence::stack().value + stack_middle + 8 * (random_() % 16); }

    void fix(unsigned reg, uint64_t value) {
        if (!fixed_[reg])
            r_.gpr[reg] = value;
        fixed_[reg] = true;
    }

    void choose_counts(const Instruction& instruction) {
        constexpr ZydisInstructionAttributes repeats =
            ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
        if (instruction.info.attributes & repeats)
            fix(rcx, random_() % 48);
        switch (instruction.info.mnemonic) {
        case ZYDIS_MNEMONIC_JRCXZ:
        case ZYDIS_MNEMONIC_JECXZ:
        case ZYDIS_MNEMONIC_LOOP:
        case ZYDIS_MNEMONIC_LOOPE:
        case ZYDIS_MNEMONIC_LOOPNE:
            fix(rcx, random_() % 3 + (random_() % 4 == 0 ? uint64_t{1} << 32 : 0));
            break;
        case ZYDIS_MNEMONIC_XGETBV:
            fix(rcx, 0);
            break;
        case ZYDIS_MNEMONIC_CPUID:
            fix(rax, random_() % 0x20 + (random_() % 2 << 31));
            fix(rcx, random_() % 4);
            break;
        case ZYDIS_MNEMONIC_DIV:
        case ZYDIS_MNEMONIC_IDIV:
            if (random_() % 4) {
                fix(rdx, 0);
                if (instruction.operands[0].size == 8)
                    fix(rax, random_() % 128);
            }
            break;
        case ZYDIS_MNEMONIC_BT:
        case ZYDIS_MNEMONIC_BTC:
        case ZYDIS_MNEMONIC_BTR:
        case ZYDIS_MNEMONIC_BTS: {
            // The number of a bit in memory reaches far.
            auto bit = gpr_of(instruction.operands[1].reg.value);
            if (instruction.operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                instruction.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER && bit)
                fix(*bit, random_() % 2048);
            break;
        }
        default:
            break;
        }
    }

    /// Chooses registers so that the operand lies in the fence, as far as they are free.
    void place(const Instruction& instruction, const ZydisDecodedOperand& op) {
        if (names_address(op))
            return;
        auto base = gpr_of(op.mem.base);
        auto index = gpr_of(op.mem.index);
        uint64_t scale = op.mem.scale;
        uint64_t mask = instruction.info.address_width == 64 ? ~uint64_t{0} : 0xffffffff;
        uint64_t want = random_data(random_, wants_alignment(instruction) || random_() % 2) -
                        segment_base(op) - static_cast<uint64_t>(op.mem.disp.value);
        if (base && index && *base == *index) {
            fix(*base, want / (scale + 1) & mask);
        } else if (base && index) {
            fix(*index, wants_alignment(instruction) ? 0 : random_() % 16);
            if (fixed_[*base] && *base == rsp)
                return;
            fix(*base, (want - scale * r_.gpr[*index]) & mask);
        } else if (base && *base != rsp) {
            fix(*base, want & mask);
        } else if (index) {
            fix(*index, (want & mask) / scale);
        }
    }

    uint64_t address_of(const ZydisDecodedOperand& op, const Instruction& instruction) const {
        uint64_t at = segment_base(op) + static_cast<uint64_t>(op.mem.disp.value);
        if (op.mem.base == ZYDIS_REGISTER_RIP)
            at += instruction.end().value;
        if (auto base = gpr_of(op.mem.base))
            at += r_.gpr[*base];
        if (auto index = gpr_of(op.mem.index))
            at += r_.gpr[*index] * op.mem.scale;
        return at;
    }

    void poke(uint64_t at, std::span<const std::byte> bytes) {
        auto put = [&](std::span<std::byte> memory, Gva start) {
            if (at >= start.value && at + bytes.size() <= start.value + memory.size())
                std::memcpy(memory.data() + (at - start.value), bytes.data(), bytes.size());
        };
        put(fence_.data_at_start(), Fence::data());
        put(fence_.stack_at_start(), Fence::stack());
    }

    template <typename T> void poke_value(uint64_t at, T value) {
        poke(at, std::as_bytes(std::span(&value, 1)));
    }

    /// Values that make sense: addresses to go to, control words that are legal.
    void choose_values(const Instruction& instruction) {
        const ZydisDecodedOperand& op = instruction.operands[0];
        bool memory = op.type == ZYDIS_OPERAND_TYPE_MEMORY;
        Flow flow = flow_of(instruction);
        if ((flow == Flow::jump || flow == Flow::call) && !instruction.branch_target()) {
            if (memory)
                poke_value(address_of(op, instruction), random_target(random_));
            else if (auto reg = gpr_of(op.reg.value))
                fix(*reg, random_target(random_));
        }
        switch (instruction.info.mnemonic) {
        case ZYDIS_MNEMONIC_LDMXCSR:
        case ZYDIS_MNEMONIC_VLDMXCSR:
            poke_value(address_of(op, instruction),
                       static_cast<uint32_t>((random_() & 0xffbf) | 0x1f80));
            break;
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64:
        case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64:
            poke_value(address_of(op, instruction) + 24, uint32_t{0x1f80});
            poke(address_of(op, instruction) + 512, std::vector<std::byte>(64));
            break;
        default:
            break;
        }
        // Whoever writes the stack pointer writes one.
        for (unsigned i = 0; i < instruction.info.operand_count_visible; i++) {
            const ZydisDecodedOperand& to = instruction.operands[i];
            if (i == 0 && to.type == ZYDIS_OPERAND_TYPE_REGISTER &&
                to.reg.value == ZYDIS_REGISTER_RSP &&
                (to.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
                choose_stack_source(instruction);
        }
    }

    void choose_stack_source(const Instruction& instruction) {
        bool moves = instruction.info.mnemonic == ZYDIS_MNEMONIC_MOV ||
                     instruction.info.mnemonic == ZYDIS_MNEMONIC_LEA;
        const ZydisDecodedOperand& from = instruction.operands[1];
        if (instruction.info.mnemonic == ZYDIS_MNEMONIC_POP)
            poke_value(r_.gpr[rsp], stack_pointer());
        else if (moves && from.type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(from.reg.value))
            fix(*gpr_of(from.reg.value), stack_pointer());
        else if (moves && from.mem.type == ZYDIS_MEMOP_TYPE_AGEN && gpr_of(from.mem.base))
            r_.gpr[*gpr_of(from.mem.base)] = stack_pointer();
        else if (moves && from.type == ZYDIS_OPERAND_TYPE_MEMORY)
            poke_value(address_of(from, instruction), stack_pointer());
        else if (!moves && from.type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(from.reg.value))
            fix(*gpr_of(from.reg.value), random_() % 512 * 8);
    }

    const Displaced& code_;
    Fence& fence_;
    Random& random_;
    Registers r_;
    std::array<bool, 16> fixed_{};
};

bool inside(uint64_t at, Gva start, size_t size) {
    return at >= start.value && at - start.value < size;
}

/// Registers whose value is new at every execution.
std::array<bool, 16> unrepeatable(const Displaced& code, bool& flags) {
    std::array<bool, 16> out{};
    flags = false;
    for (const Instruction& instruction : code.instructions) {
        switch (instruction.info.mnemonic) {
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
            out[rax] = out[rdx] = true;
            break;
        case ZYDIS_MNEMONIC_RDRAND:
        case ZYDIS_MNEMONIC_RDSEED:
            if (auto reg = gpr_of(instruction.operands[0].reg.value))
                out[*reg] = true;
            flags = true;
            break;
        default:
            break;
        }
    }
    return out;
}

std::string compare_registers(const Displaced& code, const Registers& a, const Registers& b) {
    bool skip_flags = false;
    auto skip = unrepeatable(code, skip_flags);
    for (size_t i = 0; i < a.gpr.size(); i++)
        if (!skip[i] && a.gpr[i] != b.gpr[i])
            return fmt::format("{} is {:#x}, was {:#x}", gpr_names[i], b.gpr[i], a.gpr[i]);
    if (!skip_flags && a.flags != b.flags)
        return fmt::format("flags are {:#x}, were {:#x}", b.flags, a.flags);
    if (a.xmm != b.xmm || a.ymm_high != b.ymm_high)
        return "vector registers differ";
    if (a.mxcsr != b.mxcsr)
        return fmt::format("mxcsr is {:#x}, was {:#x}", b.mxcsr, a.mxcsr);
    if (a.fpu_control != b.fpu_control || a.fpu_stack != b.fpu_stack)
        return "x87 registers differ";
    return "";
}

struct Memory {
    const char* name;
    Gva start;
    std::span<const std::byte> at_start;
    const std::vector<std::byte>& original;
    const std::vector<std::byte>& displaced;
};

std::string compare_memory(const Trial& trial, const Memory& memory) {
    if (memory.original == memory.displaced)
        return "";
    uint64_t before = trial.start.gpr[rsp];
    uint64_t after = trial.original.registers.gpr[rsp];
    for (size_t i = 0; i < memory.original.size(); i++) {
        if (memory.original[i] == memory.displaced[i])
            continue;
        uint64_t at = memory.start.value + i;
        bool dead = at < after && at >= after - dead_stack;
        bool undefined =
            at < before && at >= before - dead_stack && memory.original[i] == memory.at_start[i];
        if (!dead && !undefined)
            return fmt::format("{} differs at {:#x}: {:#x}, was {:#x}", memory.name, at,
                               static_cast<unsigned>(memory.displaced[i]),
                               static_cast<unsigned>(memory.original[i]));
    }
    return "";
}

} // namespace

Registers choose_state(const Displaced& in_fence, Fence& fence, Random& random) {
    return Chooser(in_fence, fence, random).choose();
}

std::string compare(const Trial& trial, Fence& fence) {
    const Ending& original = trial.original;
    const Ending& displaced = trial.displaced;
    if (!displaced.wrong.empty())
        return displaced.wrong;
    if (original.signal != displaced.signal || original.code != displaced.code)
        return fmt::format("signal {} ({}), was {} ({})", displaced.signal, displaced.code,
                           original.signal, original.code);
    if (original.address != displaced.address)
        return fmt::format("faults at {:#x}, did at {:#x}", displaced.address, original.address);
    uint64_t was = original.registers.rip;
    uint64_t is = displaced.registers.rip;
    bool in_place = inside(was, trial.code.address(), trial.code.bytes.size());
    bool ran_through = original.signal == SIGTRAP;
    if (in_place ? !inside(is, trial.piece, trial.piece_size) : was != is)
        return fmt::format("goes on at {:#x}, did at {:#x}", is, was);
    Registers then = original.registers;
    // A call pushes before it reads where to go; what faults there never returns.
    if (in_place && !ran_through && flow_of(trial.code.instructions.back()) == Flow::call)
        then.gpr[rsp] = displaced.registers.gpr[rsp];
    if (auto wrong = compare_registers(trial.code, then, displaced.registers); !wrong.empty())
        return wrong;
    if (ran_through && original.interrupts != displaced.interrupts)
        return fmt::format("interrupts are {}", displaced.interrupts ? "on" : "off");
    auto wrong = compare_memory(
        trial, {"data", Fence::data(), fence.data_at_start(), original.data, displaced.data});
    if (wrong.empty())
        wrong = compare_memory(trial, {"stack", Fence::stack(), fence.stack_at_start(),
                                       original.stack, displaced.stack});
    return wrong;
}

} // namespace shadowmon::test
