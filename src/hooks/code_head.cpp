// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/code_head.h"

#include "src/hooks/instruction.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace shadowmon {

namespace {

using Kind = CodeHead::Kind;

constexpr uint64_t gate_vector = 0x14;

Kind kind_of(const ZydisDecodedInstruction& info) {
    switch (info.mnemonic) {
    case ZYDIS_MNEMONIC_CALL: // of a function that does not return
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_SYSCALL: // of Xen, which does not return
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
        return Kind::ends_flow;
    case ZYDIS_MNEMONIC_UD2:
        return Kind::undefined;
    case ZYDIS_MNEMONIC_JMP:
        return Kind::jump;
    case ZYDIS_MNEMONIC_SWAPGS:
        return Kind::swapgs;
    case ZYDIS_MNEMONIC_INT:
        return info.raw.imm[0].value.u == gate_vector ? Kind::gate_int : Kind::plain;
    default:
        return Kind::plain;
    }
}

/// What follows an opcode, and what it is.
enum Form : uint16_t {
    known = 1 << 0,
    modrm = 1 << 1,
    memory = 1 << 2, // with modrm: no register form
    imm8 = 1 << 3,
    imm_z = 1 << 4, // 32 bits, 16 with an operand-size prefix
    imm_v = 1 << 5, // as wide as the operand
    rel8 = 1 << 6,
    rel32 = 1 << 7,
    ends = 1 << 8,
    jumps = 1 << 9,
    ud2 = 1 << 10,
    narrow = 1 << 11, // not with an operand-size prefix
    group = 1 << 12,  // depends on the register field of modrm
    prefix = 1 << 13,
    rex = 1 << 14,
    escape = 1 << 15, // to the opcodes of two bytes
};

using Forms = std::array<uint16_t, 256>;

constexpr void fill(Forms& forms, unsigned from, unsigned to, unsigned form) {
    for (unsigned op = from; op <= to; op++)
        forms[op] = static_cast<uint16_t>(form | known);
}

constexpr uint8_t operand_size = 0x66;

constexpr Forms one_byte = [] {
    Forms f{};
    for (unsigned op : {0x26u, 0x2eu, 0x36u, 0x3eu, 0x64u, 0x65u, unsigned{operand_size}})
        f[op] = prefix; // of a segment, most of them
    for (unsigned op = 0x40; op < 0x50; op++)
        f[op] = rex;
    f[0x0f] = escape;
    for (unsigned op = 0; op < 0x40; op += 8) { // ADD, OR, ADC, SBB, AND, SUB, XOR, CMP
        fill(f, op, op + 3, modrm);
        fill(f, op + 4, op + 4, imm8);
        fill(f, op + 5, op + 5, imm_z);
    }
    fill(f, 0x50, 0x5f, 0);
    fill(f, 0x63, 0x63, modrm);
    fill(f, 0x68, 0x68, imm_z);
    fill(f, 0x69, 0x69, modrm | imm_z);
    fill(f, 0x6a, 0x6a, imm8);
    fill(f, 0x6b, 0x6b, modrm | imm8);
    fill(f, 0x70, 0x7f, rel8 | narrow);
    fill(f, 0x80, 0x80, modrm | imm8);
    fill(f, 0x81, 0x81, modrm | imm_z);
    fill(f, 0x83, 0x83, modrm | imm8);
    fill(f, 0x84, 0x8b, modrm);
    fill(f, 0x8d, 0x8d, modrm | memory);
    fill(f, 0x90, 0x99, 0);
    fill(f, 0xa8, 0xa8, imm8);
    fill(f, 0xa9, 0xa9, imm_z);
    fill(f, 0xb0, 0xb7, imm8);
    fill(f, 0xb8, 0xbf, imm_v);
    fill(f, 0xc0, 0xc1, modrm | imm8 | group);
    fill(f, 0xc3, 0xc3, ends | narrow);
    fill(f, 0xc6, 0xc6, modrm | imm8 | group);
    fill(f, 0xc7, 0xc7, modrm | imm_z | group);
    fill(f, 0xc9, 0xc9, 0);
    fill(f, 0xd0, 0xd3, modrm | group);
    fill(f, 0xe8, 0xe8, rel32 | ends | narrow);
    fill(f, 0xe9, 0xe9, rel32 | jumps | narrow);
    fill(f, 0xeb, 0xeb, rel8 | jumps | narrow);
    fill(f, 0xf6, 0xf7, modrm | group);
    fill(f, 0xfe, 0xff, modrm | group);
    return f;
}();

constexpr Forms two_bytes = [] { // behind 0f
    Forms f{};
    fill(f, 0x0b, 0x0b, ud2 | narrow);
    fill(f, 0x1f, 0x1f, modrm);
    fill(f, 0x40, 0x4f, modrm);
    fill(f, 0x80, 0x8f, rel32 | narrow);
    fill(f, 0x90, 0x9f, modrm);
    for (unsigned op : {0xa3u, 0xa5u, 0xabu, 0xadu, 0xafu, 0xb0u, 0xb1u, 0xb3u, 0xb6u, 0xb7u, 0xbbu,
                        0xbcu, 0xbdu, 0xbeu, 0xbfu, 0xc0u, 0xc1u})
        fill(f, op, op, modrm);
    fill(f, 0xa4, 0xa4, modrm | imm8);
    fill(f, 0xac, 0xac, modrm | imm8);
    fill(f, 0xba, 0xba, modrm | imm8 | group);
    fill(f, 0xc8, 0xcf, narrow);
    return f;
}();

/// Of an opcode whose meaning depends on the register field. 0: not known here.
constexpr unsigned form_in_group(bool two, uint8_t op, unsigned form, unsigned reg) {
    constexpr unsigned sal_alias = 6;
    if (two)
        return reg >= 4 ? form : 0; // BT, BTS, BTR, BTC
    switch (op) {
    case 0xc6:
    case 0xc7:
        return reg == 0 ? form : 0; // MOV
    case 0xf6:
        return reg >= 2 ? form : reg == 0 ? form | imm8 : 0; // TEST has an immediate
    case 0xf7:
        return reg >= 2 ? form : reg == 0 ? form | imm_z : 0;
    case 0xfe:
        return reg <= 1 ? form : 0;
    case 0xff:
        switch (reg) {
        case 0:
        case 1:
        case 6:
            return form;
        case 2:
            return form | ends | narrow;
        case 4:
            return form | jumps | narrow;
        default:
            return 0;
        }
    default: // shifts and rotations
        return reg != sal_alias ? form : 0;
    }
}

/// What follows a modrm byte: bytes of a displacement, and whether a byte of index and base does.
enum Operand : uint8_t {
    disp_size = 7,
    has_sib = 1 << 3,
    rip_relative = 1 << 4,
};

constexpr std::array<uint8_t, 256> operands = [] {
    std::array<uint8_t, 256> all{};
    for (unsigned mod_rm = 0; mod_rm < 0xc0; mod_rm++) {
        unsigned mod = mod_rm >> 6, rm = mod_rm & 7;
        bool rip = mod == 0 && rm == 5;
        all[mod_rm] = static_cast<uint8_t>((mod == 1          ? 1
                                            : mod == 2 || rip ? 4
                                                              : 0) |
                                           (rm == 4 ? has_sib : 0) | (rip ? rip_relative : 0));
    }
    return all;
}();

/// Bytes of an instruction, of which there are more than it can have.
class Reader {
  public:
    explicit Reader(const std::byte* at) : at_(at) {}

    uint8_t take() { return static_cast<uint8_t>(*at_++); }
    template <typename T> T value() {
        T v;
        std::memcpy(&v, at_, sizeof(v));
        at_ += sizeof(v);
        return v;
    }
    void skip(size_t n) { at_ += n; }
    const std::byte* at() const { return at_; }

  private:
    const std::byte* at_;
};

/// The rest of a memory operand.
void take_operand(Reader& in, uint8_t mod_rm, CodeHead& out) {
    constexpr uint8_t first_with_disp8 = 0x40, no_base = 5;
    const unsigned operand = operands[mod_rm];
    unsigned size = operand & disp_size;
    if (operand & has_sib)
        if ((in.take() & 7) == no_base && mod_rm < first_with_disp8)
            size = 4;
    if (size == 4) {
        out.has_disp = true;
        out.disp_is_rip = operand & rip_relative;
        out.disp = in.value<int32_t>();
    } else {
        in.skip(size);
    }
}

void take_immediates(Reader& in, unsigned form, bool small, bool wide, CodeHead& out) {
    if (form & (rel8 | rel32)) {
        out.is_relative = true;
        out.relative = form & rel8 ? in.value<int8_t>() : in.value<int32_t>();
        return;
    }
    const size_t size = form & imm8    ? 1
                        : form & imm_v ? (wide    ? 8
                                          : small ? 2
                                                  : 4)
                                       : (small && !wide ? 2 : 4);
    if (size == 4) {
        out.has_imm = true;
        out.imm = static_cast<uint64_t>(int64_t{in.value<int32_t>()});
    } else if (size == 8) {
        out.has_imm = true;
        out.imm = in.value<uint64_t>();
    } else {
        in.skip(size);
    }
}

constexpr std::array endbr64{std::byte{0xf3}, std::byte{0x0f}, std::byte{0x1e}, std::byte{0xfa}};

/// False: no such instruction is known here. `out` is a new one.
bool read_quickly(std::span<const std::byte> bytes, CodeHead& out) {
    constexpr size_t longest = 15;
    constexpr size_t most_prefixes = 4;
    // REX, escape, opcode, modrm, sib, displacement and immediate of the widest.
    constexpr size_t reach = most_prefixes + 1 + 1 + 1 + 1 + 1 + 4 + 8;
    std::array<std::byte, reach> padded;
    const std::byte* start = bytes.data();
    if (bytes.size() < reach) {
        padded.fill(std::byte{});
        std::copy(bytes.begin(), bytes.end(), padded.begin());
        start = padded.data();
    }
    Reader in(start);
    bool small = false, segment = false, wide = false;
    uint8_t op = in.take();
    unsigned form = one_byte[op];
    for (size_t prefixes = 0; form & prefix; prefixes++) {
        // The operand size is said again and again where a NOP is to be long.
        if (prefixes == most_prefixes || (op != operand_size && segment))
            return false;
        (op == operand_size ? small : segment) = true;
        op = in.take();
        form = one_byte[op];
    }
    if (form & rex) {
        wide = op & 8;
        op = in.take();
        form = one_byte[op];
    }
    const bool two = form & escape;
    if (two) {
        op = in.take();
        form = two_bytes[op];
    }
    if (form & modrm) {
        const uint8_t mod_rm = in.take();
        if (form & group)
            form = form_in_group(two, op, form, mod_rm >> 3 & 7);
        if ((form & memory) && mod_rm >> 6 == 3)
            return false;
        take_operand(in, mod_rm, out);
    }
    if (!(form & known)) {
        // Begins most functions.
        out.length = endbr64.size();
        return bytes.size() >= endbr64.size() &&
               std::equal(endbr64.begin(), endbr64.end(), bytes.begin());
    }
    if (small && (form & narrow))
        return false;
    if (form & (imm8 | imm_z | imm_v | rel8 | rel32))
        take_immediates(in, form, small, wide, out);
    const auto length = static_cast<size_t>(in.at() - start);
    if (length > std::min(bytes.size(), longest))
        return false;
    out.kind = form & jumps  ? Kind::jump
               : form & ends ? Kind::ends_flow
               : form & ud2  ? Kind::undefined
                             : Kind::plain;
    out.length = static_cast<uint8_t>(length);
    return true;
}

} // namespace

std::optional<CodeHead> read_head_by_zydis(std::span<const std::byte> bytes) {
    ZydisDecodedInstruction info;
    if (!Instruction::decode_head(bytes, info))
        return std::nullopt;
    CodeHead out;
    out.length = info.length;
    out.kind = kind_of(info);
    for (const auto& imm : info.raw.imm) {
        if (imm.size != 0 && imm.is_relative) {
            out.is_relative = true;
            out.relative = static_cast<int32_t>(imm.value.s);
        } else if (imm.size == 32 || imm.size == 64) {
            out.has_imm = true;
            out.imm = imm.size == 64
                          ? imm.value.u
                          : static_cast<uint64_t>(int64_t{static_cast<int32_t>(imm.value.u)});
        }
    }
    if (info.raw.disp.size == 32) {
        out.has_disp = true;
        out.disp_is_rip = info.raw.modrm.mod == 0 && info.raw.modrm.rm == 5;
        out.disp = static_cast<int32_t>(info.raw.disp.value);
    }
    return out;
}

std::optional<CodeHead> read_head_quickly(std::span<const std::byte> bytes) {
    std::optional<CodeHead> head(std::in_place);
    if (!read_quickly(bytes, *head))
        head.reset();
    return head;
}

std::optional<CodeHead> read_head(std::span<const std::byte> bytes) {
    std::optional<CodeHead> head(std::in_place);
    if (!read_quickly(bytes, *head))
        head = read_head_by_zydis(bytes);
    return head;
}

} // namespace shadowmon
