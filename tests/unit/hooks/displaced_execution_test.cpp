// SPDX-License-Identifier: GPL-2.0-or-later
// Instructions of every kind that can be displaced, executed in their place and displaced, with
// random registers, flags and memory. What stock kernels consist of is in stock_displaced_test.
#include "tests/unit/hooks/execution_proof.h"

#include "src/hooks/movable.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>

namespace shadowmon::test {
namespace {

using Bytes = std::initializer_list<int>;

Displaced run_of(Bytes values, uint64_t at = 0xffffffff81000100) {
    Displaced out;
    for (int value : values)
        out.bytes.push_back(static_cast<std::byte>(value));
    for (size_t offset = 0; offset < out.bytes.size();) {
        auto instruction =
            Instruction::decode(Gva(at + offset), std::span(out.bytes).subspan(offset));
        if (!instruction) {
            ADD_FAILURE() << "no instruction";
            break;
        }
        offset += instruction->length();
        out.instructions.push_back(*instruction);
    }
    return out;
}

const std::vector<Displaced>& kinds() {
    static const std::vector<Displaced> all = [] {
        const Bytes cases[] = {
            {0x48, 0x89, 0xe5},                               // mov rbp, rsp
            {0x41, 0x57},                                     // push r15
            {0x41, 0x5c},                                     // pop r12
            {0x6a, 0x10},                                     // push 0x10
            {0x55, 0x48, 0x89, 0xe5},                         // push rbp; mov rbp, rsp
            {0x5b, 0x48, 0x01, 0xd8},                         // pop rbx; add rax, rbx
            {0x53, 0x5b},                                     // push rbx; pop rbx
            {0x48, 0x83, 0xec, 0x20},                         // sub rsp, 32
            {0x48, 0x89, 0x44, 0x24, 0x08},                   // mov [rsp+8], rax
            {0x4c, 0x8d, 0x35, 0x00, 0x40, 0x00, 0x00},       // lea r14, [rip+0x4000]
            {0x48, 0x8b, 0x2d, 0x00, 0x40, 0x00, 0x00},       // mov rbp, [rip+0x4000]
            {0x48, 0x89, 0x3d, 0x08, 0x40, 0x00, 0x00},       // mov [rip+0x4008], rdi
            {0x83, 0x05, 0x10, 0x40, 0x00, 0x00, 0x07},       // add dword [rip+0x4010], 7
            {0x81, 0x05, 0x10, 0x40, 0x00, 0x00, 1, 2, 3, 4}, // add dword [rip+0x4010], imm32
            {0x66, 0x39, 0x05, 0x20, 0x40, 0x00, 0x00},       // cmp [rip+0x4020], ax
            {0xf6, 0x05, 0x21, 0x40, 0x00, 0x00, 0x40},       // test byte [rip+0x4021], 0x40
            {0xf0, 0x48, 0x0f, 0xc1, 0x05, 0, 1, 0, 0},       // lock xadd [rip+0x100], rax
            {0x65, 0x48, 0x8b, 0x05, 0x74, 0x5d, 0x3a, 0x7e}, // mov rax, gs:[rip+...]
            {0x65, 0xff, 0x05, 0x74, 0x5d, 0x3a, 0x7e},       // inc dword gs:[rip+...]
            {0x65, 0x48, 0x03, 0x04, 0x25, 0, 0x50, 3, 0},    // add rax, gs:[0x35000]
            {0x4d, 0x8b, 0x34, 0xc5, 0x80, 0, 0, 0x82},       // mov r14, [rax*8-0x7dffff80]
            {0x31, 0xc0},                                     // xor eax, eax
            {0x48, 0xf7, 0xf1},                               // div rcx
            {0x48, 0x0f, 0xab, 0x07},                         // bts [rdi], rax
            {0x48, 0x0f, 0xc7, 0x0e},                         // cmpxchg16b [rsi]
            {0x0f, 0xa2},                                     // cpuid
            {0x0f, 0x31},                                     // rdtsc
            {0xc5, 0xfd, 0x6f, 0x05, 0, 1, 0, 0},             // vmovdqa ymm0, [rip+0x100]
            {0xc4, 0xe2, 0x7d, 0x18, 0x0d, 0, 1, 0, 0},       // vbroadcastss ymm1, [rip+0x100]
            {0xf3, 0x0f, 0x1e, 0xfa},                         // endbr64
            {0x66, 0x90},                                     // nop
            {0x0f, 0x1f, 0x44, 0x00, 0x00},                   // nop
            {0x90, 0x90},                                     // nop; nop
            {0xa4, 0x90},                                     // movsb; nop
            {0xf3, 0x48, 0xa5},                               // rep movsq
            {0xf3, 0xaa},                                     // rep stosb
            {0xf2, 0xae},                                     // repne scasb
            {0xf3, 0xa6},                                     // repe cmpsb
            {0xc9, 0xc3},                                     // leave; ret
            {0xc8, 0x20, 0x00, 0x00},                         // enter 32, 0
            {0xc3},                                           // ret
            {0xc2, 0x10, 0x00},                               // ret 16
            {0xeb, 0x10},                                     // jmp short
            {0xeb, 0x90},                                     // jmp short, backwards
            {0xe9, 0x00, 0x01, 0x00, 0x00},                   // jmp near
            {0xe8, 0x00, 0x01, 0x00, 0x00},                   // call
            {0x2e, 0xe8, 0x00, 0x01, 0x00, 0x00},             // cs call
            {0x55, 0xe8, 0x00, 0x01, 0x00, 0x00},             // push rbp; call
            {0xff, 0xd0},                                     // call rax
            {0x41, 0xff, 0xd3},                               // call r11
            {0x3e, 0xff, 0xd2},                               // notrack call rdx
            {0xff, 0x15, 0x00, 0x01, 0x00, 0x00},             // call [rip+0x100]
            {0xff, 0x53, 0x18},                               // call [rbx+0x18]
            {0xff, 0x14, 0x24},                               // call [rsp]
            {0xff, 0x54, 0x24, 0x78},                         // call [rsp+0x78]
            {0xff, 0x94, 0x24, 0x80, 0, 0, 0},                // call [rsp+0x80]
            {0xff, 0x14, 0xc5, 0x80, 0, 0, 0x82},             // call [rax*8-0x7dffff80]
            {0x65, 0xff, 0x14, 0x25, 0x80, 0x50, 3, 0},       // call gs:[0x35080]
            {0xff, 0xe0},                                     // jmp rax
            {0x41, 0xff, 0x65, 0x10},                         // jmp [r13+0x10]
            {0xff, 0x25, 0x00, 0x01, 0x00, 0x00},             // jmp [rip+0x100]
            {0x3e, 0xff, 0xe1},                               // notrack jmp rcx
            {0x70, 0x10},                                     // jo
            {0x71, 0x10},                                     // jno
            {0x72, 0x10},                                     // jb
            {0x75, 0xf0},                                     // jne, backwards
            {0x2e, 0x76, 0x10},                               // jbe with a hint
            {0x7a, 0x10},                                     // jp
            {0x7f, 0x10},                                     // jg
            {0x0f, 0x84, 0x00, 0x01, 0x00, 0x00},             // je near
            {0x0f, 0x8e, 0x00, 0x01, 0x00, 0x00},             // jle near
            {0xfc, 0x74, 0x10},                               // cld; je
            {0xe0, 0x10},                                     // loopne
            {0xe1, 0x10},                                     // loope
            {0xe2, 0x10},                                     // loop
            {0x67, 0xe2, 0x10},                               // loop with ecx
            {0xe3, 0x10},                                     // jrcxz
            {0x67, 0xe3, 0x10},                               // jecxz
            {0x9c, 0x58},                                     // pushfq; pop rax
            {0x53, 0x9c},                                     // push rbx; pushfq
            {0xfa, 0x31, 0xc0},                               // cli; xor eax, eax
            {0xfb, 0x31, 0xc0},                               // sti; xor eax, eax
            {0xfb, 0xc3},                                     // sti; ret
            {0xfb, 0xff, 0xd0},                               // sti; call rax
            {0xfa, 0xfb, 0x90},                               // cli; sti; nop
            {0x5b, 0xfb, 0x31, 0xc0},                         // pop rbx; sti; xor eax, eax
            {0xfb, 0x74, 0x10},                               // sti; je
        };
        std::vector<Displaced> out;
        for (const Bytes& values : cases)
            out.push_back(run_of(values));
        return out;
    }();
    return all;
}

TEST(DisplacedExecution, HasTheSameEffects) {
    EXPECT_TRUE(in_child([] {
        ExecutionProof proof(1);
        for (int repeat = 0; repeat < 25; repeat++)
            for (const Displaced& displaced : kinds())
                proof.check(displaced);
        std::puts(proof.table().c_str());
        for (const std::string& difference : proof.differences())
            std::puts(difference.c_str());
        auto total = proof.total();
        // All of them can run in user mode, and none of them faults at every try.
        return total.different || total.read || total.faulted > total.executed / 50 ? 1 : 0;
    }));
}

/// Whatever decodes, prefixes and all: forms that no compiler writes.
TEST(DisplacedExecution, RandomInstructionsHaveTheSameEffects) {
    EXPECT_TRUE(in_child([] {
        constexpr size_t wanted = 10'000;
        // The planner would not take them for code where they are; here only movability counts.
        constexpr Gva place(0xffffffff81000100);
        const char* wish = std::getenv("SM_SEED");
        uint64_t seed = wish ? std::strtoull(wish, nullptr, 0) : 1;
        ExecutionProof proof(seed);
        Random random(seed);
        for (size_t made = 0; made < wanted;) {
            std::vector<std::byte> bytes(15);
            for (std::byte& b : bytes)
                b = static_cast<std::byte>(random());
            auto instruction = Instruction::decode(place, bytes);
            if (!instruction || instruction->length() < 2 ||
                judge_move(*instruction) != Refusal::none)
                continue;
            bytes.resize(instruction->length());
            Displaced displaced{{*instruction}, bytes};
            if (!displace(displaced, Gva(0xffffffff40002000), true))
                continue; // names an address out of reach
            proof.check(displaced);
            made++;
        }
        auto total = proof.total();
        std::printf("seed %zu (SM_SEED), executed %zu, with the same fault %zu, read %zu\n",
                    static_cast<size_t>(seed), static_cast<size_t>(total.executed),
                    static_cast<size_t>(total.faulted), static_cast<size_t>(total.read));
        for (const std::string& difference : proof.differences())
            std::puts(difference.c_str());
        return total.different == 0 && total.executed > wanted / 2 ? 0 : 1;
    }));
}

/// For every kind, and every byte of its piece: if the byte is another one, the proof sees it.
/// (A few are hints or distances between equal places, and may change.)
TEST(DisplacedExecution, DamageIsSeen) {
    EXPECT_TRUE(in_child([] {
        ExecutionProof proof(2);
        size_t damaged = 0;
        size_t seen = 0;
        for (size_t byte = 0; byte < 16; byte++) {
            for (const Displaced& displaced : kinds()) {
                bool hit = false;
                proof.damage_with([&](std::vector<std::byte>& piece) {
                    hit = byte < piece.size();
                    if (hit)
                        piece[byte] ^= std::byte{0x01};
                });
                uint64_t before = proof.total().different;
                proof.check(displaced);
                damaged += hit;
                bool noticed = proof.total().different > before;
                seen += hit && noticed;
                if (hit && !noticed)
                    std::printf("not seen: byte %zu of the piece for %s\n", byte,
                                displaced.instructions.front().text().c_str());
            }
        }
        std::printf("%zu of %zu damages seen\n", seen, damaged);
        return seen * 100 >= damaged * 95 ? 0 : 1;
    }));
}

} // namespace
} // namespace shadowmon::test
