/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looks at payload.elf as linked: what payload/symbols.h promises to the loader, and what the
 * gate's argument rests on. Decodes every byte of its code.
 */
#include "abi/config.h"
#include "payload/symbols.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace {

struct Segment {
    uint64_t start;
    std::vector<uint8_t> bytes;
    uint64_t memory_size;
    uint32_t flags;
    uint64_t end() const { return start + bytes.size(); }
};

struct Instruction {
    uint64_t address;
    ZydisDecodedInstruction info;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

class PayloadElf : public testing::Test {
  protected:
    void SetUp() override {
        std::ifstream in(SM_PAYLOAD_ELF, std::ios::binary);
        file_.assign(std::istreambuf_iterator<char>(in), {});
        ASSERT_GE(file_.size(), sizeof(Elf64_Ehdr));
        header_ = read<Elf64_Ehdr>(0);
        ASSERT_EQ(memcmp(header_.e_ident, ELFMAG, SELFMAG), 0);
        for (unsigned i = 0; i < header_.e_phnum; i++) {
            const auto p = read<Elf64_Phdr>(header_.e_phoff + i * sizeof(Elf64_Phdr));
            program_types_.push_back(p.p_type);
            if (p.p_type == PT_LOAD)
                segments_.push_back({p.p_vaddr,
                                     {file_.begin() + static_cast<long>(p.p_offset),
                                      file_.begin() + static_cast<long>(p.p_offset + p.p_filesz)},
                                     p.p_memsz,
                                     p.p_flags});
        }
        for (unsigned i = 0; i < header_.e_shnum; i++)
            sections_.push_back(read<Elf64_Shdr>(header_.e_shoff + i * sizeof(Elf64_Shdr)));
        for (const Elf64_Shdr& table : sections_) {
            if (table.sh_type != SHT_SYMTAB)
                continue;
            const Elf64_Shdr& names = sections_[table.sh_link];
            for (uint64_t at = sizeof(Elf64_Sym); at < table.sh_size; at += sizeof(Elf64_Sym)) {
                const auto symbol = read<Elf64_Sym>(table.sh_offset + at);
                const char* name = &file_[names.sh_offset + symbol.st_name];
                if (symbol.st_shndx == SHN_UNDEF)
                    undefined_.push_back(name);
                symbols_[name] = symbol.st_value;
            }
        }
        ASSERT_EQ(segments_.size(), 4u);
    }

    template <class T> T read(uint64_t offset) const {
        T value;
        memcpy(&value, &file_.at(offset + sizeof(T) - 1) - (sizeof(T) - 1), sizeof(T));
        return value;
    }

    const Segment& gate() const { return segments_[0]; }
    const Segment& text() const { return segments_[1]; }

    bool is_code(uint64_t address) const {
        return (address >= gate().start && address < gate().end()) ||
               (address >= text().start && address < text().end());
    }

    std::vector<Instruction> decode(const Segment& segment) const {
        ZydisDecoder decoder;
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        std::vector<Instruction> all;
        for (uint64_t at = 0; at < segment.bytes.size();) {
            Instruction i;
            i.address = segment.start + at;
            const auto status = ZydisDecoderDecodeFull(
                &decoder, &segment.bytes[at], segment.bytes.size() - at, &i.info, i.operands);
            if (!ZYAN_SUCCESS(status)) {
                ADD_FAILURE() << "no instruction at 0x" << std::hex << i.address;
                return all;
            }
            all.push_back(i);
            at += i.info.length;
        }
        return all;
    }

    std::vector<Instruction> decode_all() const {
        auto all = decode(gate());
        const auto more = decode(text());
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }

    /* Where a jmp rel32 of five bytes leads. */
    std::optional<uint64_t> jump_target(const Segment& segment, uint64_t address) const {
        const uint8_t* code = &segment.bytes.at(address - segment.start);
        if (*code != 0xe9)
            return {};
        int32_t rel;
        memcpy(&rel, code + 1, 4);
        return address + 5 + static_cast<uint64_t>(int64_t{rel});
    }

    static std::vector<uint64_t> find_bytes(const Segment& segment, std::vector<uint8_t> what) {
        std::vector<uint64_t> found;
        for (auto at = segment.bytes.begin();;) {
            at = std::search(at, segment.bytes.end(), what.begin(), what.end());
            if (at == segment.bytes.end())
                return found;
            found.push_back(segment.start + static_cast<uint64_t>(at - segment.bytes.begin()));
            ++at;
        }
    }

    std::vector<char> file_;
    Elf64_Ehdr header_{};
    std::vector<uint32_t> program_types_;
    std::vector<Segment> segments_;
    std::vector<Elf64_Shdr> sections_;
    std::map<std::string, uint64_t> symbols_;
    std::vector<std::string> undefined_;
};

TEST_F(PayloadElf, IsWhatTheLoaderExpects) {
    EXPECT_EQ(header_.e_type, ET_EXEC);
    EXPECT_EQ(header_.e_machine, EM_X86_64);
    for (uint32_t type : program_types_)
        EXPECT_TRUE(type == PT_LOAD || type == PT_GNU_STACK) << "program header of type " << type;
    const struct {
        uint64_t offset, max;
        uint32_t flags;
    } areas[] = {{SM_GATE_OFFSET, SM_PAGE_SIZE, PF_R | PF_X},
                 {SM_TEXT_OFFSET, SM_TEXT_MAX_SIZE, PF_R | PF_X},
                 {SM_RODATA_OFFSET, SM_RODATA_MAX_SIZE, PF_R},
                 {SM_DATA_OFFSET, SM_DATA_MAX_SIZE, PF_R | PF_W}};
    for (size_t i = 0; i < 4; i++) {
        EXPECT_EQ(segments_[i].start, SM_COMPARTMENT_GVA + areas[i].offset) << i;
        EXPECT_LE(segments_[i].memory_size, areas[i].max) << i;
        EXPECT_GE(segments_[i].memory_size, segments_[i].bytes.size()) << i;
        EXPECT_EQ(segments_[i].flags, areas[i].flags) << i;
        EXPECT_GT(segments_[i].memory_size, 0u) << i;
    }
    EXPECT_EQ(gate().bytes.size(), size_t{SM_PAGE_SIZE});
    EXPECT_EQ(text().bytes.size() % SM_PAGE_SIZE, 0u) << "nobody else fills an executable page";
    EXPECT_EQ(text().bytes.size(), text().memory_size);
}

TEST_F(PayloadElf, NothingIsLeftToResolve) {
    EXPECT_EQ(undefined_, std::vector<std::string>{});
    for (const Elf64_Shdr& s : sections_) {
        EXPECT_NE(s.sh_type, uint32_t{SHT_REL});
        EXPECT_NE(s.sh_type, uint32_t{SHT_RELA});
        EXPECT_NE(s.sh_type, uint32_t{SHT_DYNAMIC});
        EXPECT_FALSE((s.sh_flags & SHF_WRITE) && (s.sh_flags & SHF_EXECINSTR));
    }
}

TEST_F(PayloadElf, SymbolsAreWhereTheyAreSaidToBe) {
    const auto within = [&](const char* name, const Segment& segment, uint64_t size) {
        ASSERT_EQ(symbols_.count(name), 1u) << name;
        EXPECT_GE(symbols_[name], segment.start) << name;
        EXPECT_LE(symbols_[name] + size, segment.start + segment.memory_size) << name;
    };
    within(SM_SYMBOL_GATE_INT20, gate(), 1);
    within(SM_SYMBOL_GATE_CALL, gate(), 1);
    within(SM_SYMBOL_GATE_CHAIN_JUMP, gate(), 5);
    within(SM_SYMBOL_ABI_VERSION, segments_[2], 4);
    within(SM_SYMBOL_NO_SLOT, segments_[3], 8);
    uint32_t version;
    memcpy(&version, &segments_[2].bytes.at(symbols_[SM_SYMBOL_ABI_VERSION] - segments_[2].start),
           4);
    EXPECT_EQ(version, uint32_t{SM_ABI_VERSION});
    const auto chain = jump_target(gate(), symbols_[SM_SYMBOL_GATE_CHAIN_JUMP]);
    ASSERT_TRUE(chain);
    EXPECT_EQ(memcmp(&gate().bytes.at(*chain - gate().start), "\x48\xcf", 2), 0) << "iretq";
}

/* A guest's VMFUNC at the end of a page of its own goes on at the start of one of ours. */
TEST_F(PayloadElf, EveryPageStartsAndEndsOnTheWayOut) {
    const uint64_t back = symbols_.at("sm_gate_back");
    for (const Segment* segment : {&gate(), &text()}) {
        for (uint64_t page = segment->start; page < segment->end(); page += SM_PAGE_SIZE) {
            EXPECT_EQ(jump_target(*segment, page), back) << std::hex << page;
            EXPECT_EQ(jump_target(*segment, page + SM_PAGE_SIZE - 5), back) << std::hex << page;
        }
    }
    /* And this is the way out: it needs no register and looks whether it has got there. */
    const std::vector<uint8_t> way_out = {0x31, 0xc0, 0x31, 0xc9, 0x0f, 0x01, 0xd4, 0x85, 0xc9};
    EXPECT_EQ(memcmp(&gate().bytes.at(back - gate().start), way_out.data(), way_out.size()), 0);
    /* jnz back */
    const uint8_t* jump = &gate().bytes.at(back - gate().start + way_out.size());
    EXPECT_EQ(jump[0], 0x75);
    EXPECT_EQ(static_cast<int8_t>(jump[1]), -static_cast<int>(way_out.size() + 2));
}

TEST_F(PayloadElf, ViewsChangeAtTheGatesOnly) {
    const auto in_gate = find_bytes(gate(), {0x0f, 0x01, 0xd4});
    ASSERT_EQ(in_gate.size(), 5u) << "also counting what is no instruction of its own";
    EXPECT_EQ(find_bytes(text(), {0x0f, 0x01, 0xd4}).size(), 0u);
    const uint64_t back = symbols_.at("sm_gate_back");
    const auto bytes_at = [&](uint64_t address) {
        return &gate().bytes.at(address - gate().start);
    };
    unsigned entering = 0, leaving = 0;
    for (uint64_t at : in_gate) {
        /* One that enters is followed by cli; cmp ecx, 1; rex.w nop; jne back, one that leaves, in
         * front of which are xor eax, eax; xor ecx, ecx, by test ecx, ecx; jnz back. */
        const std::vector<uint8_t> entered = {0xfa, 0x83, 0xf9, 0x01, 0x48, 0x90};
        const std::vector<uint8_t> left = {0x85, 0xc9};
        const std::vector<uint8_t> before = {0x31, 0xc0, 0x31, 0xc9};
        const uint8_t* jump;
        uint64_t jump_at;
        if (memcmp(bytes_at(at + 3), entered.data(), entered.size()) == 0) {
            entering++;
            jump_at = at + 3 + entered.size();
        } else {
            ASSERT_EQ(memcmp(bytes_at(at + 3), left.data(), left.size()), 0) << std::hex << at;
            EXPECT_EQ(memcmp(bytes_at(at - 4), before.data(), before.size()), 0) << std::hex << at;
            leaving++;
            jump_at = at + 3 + left.size();
        }
        jump = bytes_at(jump_at);
        if (jump[0] == 0x75) {
            EXPECT_EQ(jump_at + 2 + static_cast<uint64_t>(int64_t{static_cast<int8_t>(jump[1])}),
                      back);
        } else {
            int32_t rel;
            ASSERT_EQ(memcmp(jump, "\x0f\x85", 2), 0) << std::hex << jump_at;
            memcpy(&rel, jump + 2, 4);
            EXPECT_EQ(jump_at + 6 + static_cast<uint64_t>(int64_t{rel}), back);
        }
    }
    EXPECT_EQ(entering, 2u);
    EXPECT_EQ(leaving, 3u);
    EXPECT_TRUE(std::count(in_gate.begin(), in_gate.end(), back + 4));
    EXPECT_EQ(find_bytes(text(), {0x0f, 0x01, 0xc1}).size(), 1u) << "VMCALL of block mode";
    EXPECT_EQ(find_bytes(gate(), {0x0f, 0x01, 0xc1}).size(), 0u);
}

TEST_F(PayloadElf, InstructionsThatNeedTheKernelAreTheseOnly) {
    std::map<ZydisMnemonic, int> found;
    for (const Instruction& i : decode_all()) {
        const bool privileged = i.info.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED;
        switch (i.info.meta.category) {
        case ZYDIS_CATEGORY_SYSTEM:
        case ZYDIS_CATEGORY_VTX:
        case ZYDIS_CATEGORY_IO:
        case ZYDIS_CATEGORY_IOSTRINGOP:
        case ZYDIS_CATEGORY_INTERRUPT:
        case ZYDIS_CATEGORY_SYSCALL:
        case ZYDIS_CATEGORY_SYSRET:
        case ZYDIS_CATEGORY_SEGOP:
            found[i.info.mnemonic]++;
            break;
        default:
            if (privileged || i.info.mnemonic == ZYDIS_MNEMONIC_CLI ||
                i.info.mnemonic == ZYDIS_MNEMONIC_STI || i.info.mnemonic == ZYDIS_MNEMONIC_IRETQ ||
                i.info.mnemonic == ZYDIS_MNEMONIC_RDGSBASE)
                found[i.info.mnemonic]++;
        }
        if (i.info.mnemonic == ZYDIS_MNEMONIC_MOV) {
            EXPECT_FALSE(i.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                         ZydisRegisterGetClass(i.operands[0].reg.value) == ZYDIS_REGCLASS_CONTROL)
                << "writes a control register at 0x" << std::hex << i.address;
        }
    }
    const std::set<ZydisMnemonic> allowed = {
        ZYDIS_MNEMONIC_VMFUNC,   ZYDIS_MNEMONIC_VMCALL, ZYDIS_MNEMONIC_CLI,
        ZYDIS_MNEMONIC_STI,      ZYDIS_MNEMONIC_IRETQ,  ZYDIS_MNEMONIC_RDMSR,
        ZYDIS_MNEMONIC_RDGSBASE, ZYDIS_MNEMONIC_RDTSCP, ZYDIS_MNEMONIC_MOV};
    for (const auto& [mnemonic, count] : found)
        EXPECT_TRUE(allowed.count(mnemonic))
            << ZydisMnemonicGetString(mnemonic) << ", " << count << " times";
    EXPECT_EQ(found[ZYDIS_MNEMONIC_VMFUNC], 5);
    EXPECT_EQ(found[ZYDIS_MNEMONIC_VMCALL], 1);
    EXPECT_EQ(found[ZYDIS_MNEMONIC_CLI], 3) << "behind each VMFUNC that enters, and of the CALL";
    EXPECT_EQ(found[ZYDIS_MNEMONIC_STI], 1);
}

/* The window in which an interrupt finds a CALL in the gate, and that there is none at its end. */
TEST_F(PayloadElf, CallIsMaskedFromItsSecondInstructionToItsReturn) {
    const std::vector<uint8_t> start = {0x9c, 0xfa}; /* pushfq; cli */
    const uint64_t call = symbols_.at(SM_SYMBOL_GATE_CALL);
    EXPECT_EQ(memcmp(&gate().bytes.at(call - gate().start), start.data(), start.size()), 0);
    /* popfq; sti; ret: sti works from behind the ret on. */
    EXPECT_EQ(find_bytes(gate(), {0x9d, 0xfb, 0xc3}).size(), 1u);
}

/* What the gates do not save for the guest, nobody in the payload changes. */
TEST_F(PayloadElf, LeavesTheRegistersAloneThatTheGatesDoNotSave) {
    for (const Instruction& i : decode(text())) {
        if (i.info.mnemonic == ZYDIS_MNEMONIC_XCHG || i.info.mnemonic == ZYDIS_MNEMONIC_VMCALL)
            continue; /* rbx, around the VMCALL of block mode */
        for (unsigned n = 0; n < i.info.operand_count; n++) {
            const ZydisDecodedOperand& o = i.operands[n];
            if (o.type != ZYDIS_OPERAND_TYPE_REGISTER)
                continue;
            switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o.reg.value)) {
            case ZYDIS_REGISTER_RBX:
            case ZYDIS_REGISTER_RBP:
            case ZYDIS_REGISTER_R11:
            case ZYDIS_REGISTER_R12:
            case ZYDIS_REGISTER_R13:
            case ZYDIS_REGISTER_R14:
            case ZYDIS_REGISTER_R15:
                ADD_FAILURE() << ZydisRegisterGetString(o.reg.value) << " at 0x" << std::hex
                              << i.address;
                break;
            default:
                break;
            }
        }
    }
}

TEST_F(PayloadElf, UsesGeneralRegistersOnly) {
    for (const Instruction& i : decode_all()) {
        for (unsigned n = 0; n < i.info.operand_count; n++) {
            const ZydisDecodedOperand& o = i.operands[n];
            if (o.type != ZYDIS_OPERAND_TYPE_REGISTER)
                continue;
            switch (ZydisRegisterGetClass(o.reg.value)) {
            case ZYDIS_REGCLASS_X87:
            case ZYDIS_REGCLASS_MMX:
            case ZYDIS_REGCLASS_XMM:
            case ZYDIS_REGCLASS_YMM:
            case ZYDIS_REGCLASS_ZMM:
            case ZYDIS_REGCLASS_TMM:
            case ZYDIS_REGCLASS_MASK:
            case ZYDIS_REGCLASS_SEGMENT:
            case ZYDIS_REGCLASS_DEBUG:
                ADD_FAILURE() << ZydisRegisterGetString(o.reg.value) << " at 0x" << std::hex
                              << i.address;
                break;
            default:
                break;
            }
        }
    }
}

TEST_F(PayloadElf, NothingLeadsOutOfTheCompartment) {
    std::set<uint64_t> starts;
    const auto all = decode_all();
    for (const Instruction& i : all)
        starts.insert(i.address);
    for (const Instruction& i : all) {
        const bool is_jump = i.info.meta.category == ZYDIS_CATEGORY_COND_BR ||
                             i.info.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
                             i.info.meta.category == ZYDIS_CATEGORY_CALL;
        for (unsigned n = 0; n < i.info.operand_count_visible; n++) {
            const ZydisDecodedOperand& o = i.operands[n];
            uint64_t target;
            if (is_jump) {
                ASSERT_EQ(o.type, ZYDIS_OPERAND_TYPE_IMMEDIATE)
                    << "indirect jump at 0x" << std::hex << i.address;
                ASSERT_TRUE(
                    ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&i.info, &o, i.address, &target)));
                EXPECT_TRUE(is_code(target)) << std::hex << i.address << " to " << target;
                EXPECT_TRUE(starts.count(target)) << std::hex << i.address << " to " << target;
            } else if (o.type == ZYDIS_OPERAND_TYPE_MEMORY) {
                EXPECT_NE(o.mem.segment, ZYDIS_REGISTER_GS) << std::hex << i.address;
                EXPECT_NE(o.mem.segment, ZYDIS_REGISTER_FS) << std::hex << i.address;
                EXPECT_TRUE(o.mem.base != ZYDIS_REGISTER_NONE || o.mem.index != ZYDIS_REGISTER_NONE)
                    << "absolute address at 0x" << std::hex << i.address;
                if (o.mem.base != ZYDIS_REGISTER_RIP)
                    continue;
                ASSERT_TRUE(
                    ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&i.info, &o, i.address, &target)));
                const uint64_t offset = target - SM_COMPARTMENT_GVA;
                EXPECT_TRUE((offset >= SM_RODATA_OFFSET && offset < SM_SLOTS_OFFSET + 8))
                    << std::hex << i.address << " names " << target;
            }
        }
    }
}

} // namespace
