// SPDX-License-Identifier: GPL-2.0-or-later
// Displaced instructions: they do at their new address what they did at the old one.
// Where they may, they are executed: the original in one buffer, the displaced form
// with its jumps in another, with the same registers, and the effects compared.
#include "src/hooks/displace.h"

#include "abi/layout.h"

#include "src/hooks/site_planner.h"
#include "tests/unit/hooks/stock_functions.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sys/mman.h>

namespace shadowmon {
namespace {

constexpr Gva page(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET);

struct Code {
    Instruction instruction;
    std::vector<std::byte> bytes;
};

Code code(uint64_t at, std::initializer_list<int> values) {
    std::vector<std::byte> bytes;
    for (int value : values)
        bytes.push_back(static_cast<std::byte>(value));
    auto instruction = Instruction::decode(Gva(at), bytes);
    EXPECT_TRUE(instruction);
    return {*instruction, bytes};
}

TEST(Displace, CopiesWhatDoesNotNameItsAddress) {
    Code c = code(0xffffffff81000000, {0x48, 0x89, 0xe5});
    auto moved = displace(c.instruction, c.bytes, page);
    ASSERT_TRUE(moved);
    EXPECT_EQ(*moved, c.bytes);
}

TEST(Displace, KeepsTheAddressOfRipOperands) {
    Code c = code(0xffffffff81c8f28e, {0x48, 0x8b, 0x2d, 0x4b, 0x21, 0x37, 0x00});
    auto moved = displace(c.instruction, c.bytes, page);
    ASSERT_TRUE(moved) << moved.error().message();
    auto again = Instruction::decode(page, *moved);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->text(), "mov rbp, [0xFFFFFFFF820013E0]");
    EXPECT_EQ(again->text(), c.instruction.text());
}

TEST(Displace, PerCpuOperandsBecomeAbsolute) {
    // mov rax, gs:[rip + ...] names the small number 0x35000.
    Code c = code(0xffffffff81c8f284, {0x65, 0x48, 0x8b, 0x05, 0x74, 0x5d, 0x3a, 0x7e});
    auto moved = displace(c.instruction, c.bytes, page);
    ASSERT_TRUE(moved) << moved.error().message();
    auto again = Instruction::decode(page, *moved);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->rip_relative(), nullptr);
    EXPECT_EQ(again->operands[1].mem.segment, ZYDIS_REGISTER_GS);
    EXPECT_EQ(again->operands[1].mem.disp.value, 0x35000);
}

TEST(Displace, RefusesControlFlow) {
    for (auto values : {std::initializer_list<int>{0xeb, 0x10},
                        {0xc3},
                        {0xff, 0xd0},
                        {0xe8, 0, 0, 0, 0},
                        {0x74, 0x02}}) {
        Code c = code(0xffffffff81000000, values);
        EXPECT_FALSE(displace(c.instruction, c.bytes, page)) << c.instruction.text();
    }
}

TEST(Displace, RefusesWhatIsOutOfReach) {
    Code c = code(0x10000000, {0x48, 0x8b, 0x2d, 0x00, 0x00, 0x00, 0x40});
    // 0x50000007 fits an absolute operand; an address beyond 2 GiB does not.
    EXPECT_TRUE(displace(c.instruction, c.bytes, page));
    Code far = code(0x7fff10000000, {0x48, 0x8b, 0x2d, 0x00, 0x00, 0x00, 0x40});
    EXPECT_FALSE(displace(far.instruction, far.bytes, page));
}

TEST(DisplacedCode, VariantsOfEveryStockSite) {
    DisplacedCode area(page, SM_DISPLACED_MAX_SIZE);
    for (const StockFunction& f : stock_functions()) {
        auto all = std::as_bytes(std::span(f.bytes));
        auto site = plan_site({f.name, Gva(f.address), all, {ZYDIS_REGISTER_RDI}});
        ASSERT_TRUE(site);
        auto resume = area.add(site->instruction, site->bytes);
        ASSERT_TRUE(resume) << resume.error().message();
        for (auto [at, with_sti] : {std::pair{resume->if1, true}, {resume->if0, false}}) {
            auto rest = area.bytes().subspan(at - page);
            auto first = Instruction::decode(at, rest);
            ASSERT_TRUE(first);
            EXPECT_EQ(first->text(), site->instruction.text());
            rest = rest.subspan(first->length());
            Gva next = first->end();
            if (with_sti) {
                EXPECT_EQ(rest[0], std::byte{0xfb});
                rest = rest.subspan(1);
                next = next + 1;
            }
            auto back = Instruction::decode(next, rest);
            ASSERT_TRUE(back);
            EXPECT_EQ(back->info.mnemonic, ZYDIS_MNEMONIC_JMP);
            EXPECT_EQ(back->branch_target(), site->instruction.end());
        }
    }
    EXPECT_EQ(area.bytes()[0], std::byte{0xcc});
}

TEST(DisplacedCode, FullAreaRefusesAndStaysAsItWas) {
    DisplacedCode area(page, 16 + 16);
    Code c = code(0xffffffff81000000, {0x48, 0x89, 0xe5});
    EXPECT_FALSE(area.add(c.instruction, c.bytes));
    EXPECT_EQ(area.bytes().size(), 16u);
}

TEST(DisplacedCode, SiteOutOfReach) {
    DisplacedCode area(page, 4096);
    Code c = code(0x400000, {0x48, 0x89, 0xe5});
    EXPECT_FALSE(area.add(c.instruction, c.bytes));
}

// Execution: two code pages, a data page and a stack page between inaccessible ones,
// below 2 GiB so that everything is within reach of everything.
class Fence {
  public:
    Fence()
        : base_(static_cast<std::byte*>(mmap(nullptr, pages * 4096, PROT_NONE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0))) {
        if (base_ == MAP_FAILED)
            throw std::bad_alloc();
        open(original(), PROT_EXEC, 0xcc);
        open(displaced(), PROT_EXEC, 0xcc);
        open(data(), 0, 0x5a);
        open(stack(), 0, 0xa5);
    }
    ~Fence() { munmap(base_, pages * 4096); }

    std::byte* original() const { return base_ + 4096; }
    std::byte* displaced() const { return base_ + 3 * 4096; }
    std::byte* data() const { return base_ + 5 * 4096; }
    std::byte* stack() const { return base_ + 7 * 4096; }
    std::vector<std::byte> memory() const {
        std::vector<std::byte> all(data(), data() + 4096);
        all.insert(all.end(), stack(), stack() + 4096);
        return all;
    }

  private:
    static constexpr size_t pages = 9;
    static void open(std::byte* page, int rights, int fill) {
        mprotect(page, 4096, PROT_READ | PROT_WRITE | rights);
        std::memset(page, fill, 4096);
    }
    std::byte* base_;
};

Gva gva(const std::byte* p) { return Gva(reinterpret_cast<uintptr_t>(p)); }

struct Registers {
    uint64_t gpr[16]; // in the order of their encoding: rax, rcx, rdx, rbx, rsp, rbp, ...
    uint64_t flags;
    bool operator==(const Registers&) const = default;
};
static_assert(sizeof(Registers) == 17 * 8);

} // namespace
} // namespace shadowmon

// Loads all registers and jumps to `entry`; code that jumps to sm_test_leave ends it.
extern "C" void sm_test_enter(shadowmon::Registers* registers, const void* entry);
extern "C" void sm_test_leave();
asm(R"(
    .text
sm_test_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push %rdi
    mov %rsp, sm_test_host_rsp(%rip)
    mov %rsi, sm_test_entry(%rip)
    pushq 128(%rdi)
    popfq
    mov (%rdi), %rax
    mov 8(%rdi), %rcx
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 32(%rdi), %rsp
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    mov 64(%rdi), %r8
    mov 72(%rdi), %r9
    mov 80(%rdi), %r10
    mov 88(%rdi), %r11
    mov 96(%rdi), %r12
    mov 104(%rdi), %r13
    mov 112(%rdi), %r14
    mov 120(%rdi), %r15
    mov 56(%rdi), %rdi
    jmp *sm_test_entry(%rip)
sm_test_leave:
    mov %rsp, sm_test_rsp(%rip)
    mov %rdi, sm_test_rdi(%rip)
    mov sm_test_host_rsp(%rip), %rsp
    mov (%rsp), %rdi
    pushfq
    popq 128(%rdi)
    mov %rax, (%rdi)
    mov %rcx, 8(%rdi)
    mov %rdx, 16(%rdi)
    mov %rbx, 24(%rdi)
    mov %rbp, 40(%rdi)
    mov %rsi, 48(%rdi)
    mov %r8, 64(%rdi)
    mov %r9, 72(%rdi)
    mov %r10, 80(%rdi)
    mov %r11, 88(%rdi)
    mov %r12, 96(%rdi)
    mov %r13, 104(%rdi)
    mov %r14, 112(%rdi)
    mov %r15, 120(%rdi)
    mov sm_test_rsp(%rip), %rax
    mov %rax, 32(%rdi)
    mov sm_test_rdi(%rip), %rax
    mov %rax, 56(%rdi)
    pop %rdi
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    cld
    ret
    .bss
    .balign 8
sm_test_host_rsp: .quad 0
sm_test_entry: .quad 0
sm_test_rsp: .quad 0
sm_test_rdi: .quad 0
    .text
)");

namespace shadowmon {
namespace {

Registers random_registers(uint64_t& state, const Fence& fence) {
    Registers r{};
    for (uint64_t& reg : r.gpr)
        reg = state = state * 6364136223846793005u + 1442695040888963407u;
    r.gpr[4] = gva(fence.stack()).value + 2048;
    r.flags = (state & 0x8d5) | 0x2; // the arithmetic ones
    return r;
}

TEST(Execute, DisplacedFormHasTheSameEffects) {
    // RIP operands below name the data page: four pages behind the original.
    static const std::initializer_list<int> cases[] = {
        {0x48, 0x89, 0xe5},                               // mov rbp, rsp
        {0x41, 0x57},                                     // push r15
        {0x41, 0x5c},                                     // pop r12
        {0x6a, 0x10},                                     // push 0x10
        {0x41, 0x89, 0xf5},                               // mov r13d, esi
        {0x48, 0x83, 0xec, 0x20},                         // sub rsp, 32
        {0x48, 0x89, 0x44, 0x24, 0x08},                   // mov [rsp+8], rax
        {0x48, 0x03, 0x5c, 0x24, 0x10},                   // add rbx, [rsp+16]
        {0x4c, 0x8d, 0xb6, 0x00, 0x15, 0x00, 0x00},       // lea r14, [rsi+0x1500]
        {0x4c, 0x8d, 0x35, 0x00, 0x40, 0x00, 0x00},       // lea r14, [rip+0x4000]
        {0x48, 0x8b, 0x2d, 0x00, 0x40, 0x00, 0x00},       // mov rbp, [rip+0x4000]
        {0x48, 0x89, 0x3d, 0x08, 0x40, 0x00, 0x00},       // mov [rip+0x4008], rdi
        {0x83, 0x05, 0x10, 0x40, 0x00, 0x00, 0x07},       // add dword [rip+0x4010], 7
        {0x81, 0x05, 0x10, 0x40, 0x00, 0x00, 1, 2, 3, 4}, // add dword [rip+0x4010], imm32
        {0x66, 0x39, 0x05, 0x20, 0x40, 0x00, 0x00},       // cmp [rip+0x4020], ax
        {0xf6, 0x05, 0x21, 0x40, 0x00, 0x00, 0x40},       // test byte [rip+0x4021], 0x40
        {0x0f, 0xb7, 0x0d, 0x30, 0x40, 0x00, 0x00},       // movzx ecx, word [rip+0x4030]
        {0x4d, 0x63, 0xe5},                               // movsxd r12, r13d
        {0x48, 0xc1, 0xe0, 0x05},                         // shl rax, 5
        {0x48, 0xf7, 0xd8},                               // neg rax
        {0x31, 0xc0},                                     // xor eax, eax
        {0xff, 0xc0},                                     // inc eax
    };
    uint64_t state = 7;
    for (const auto& values : cases) {
        for (int round = 0; round < 50; round++) {
            Fence plain;
            Code c = code(gva(plain.original()).value, values);
            ASSERT_EQ(judge(c.instruction), Refusal::none) << c.instruction.text();
            Registers start = random_registers(state, plain);

            auto prepare = [&](const Fence& fence) {
                std::memcpy(fence.original(), c.bytes.data(), c.bytes.size());
                std::byte* leave = fence.original() + c.bytes.size();
                const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0}; // to the address that follows
                auto target = reinterpret_cast<uint64_t>(&sm_test_leave);
                std::memcpy(leave, jump, sizeof(jump));
                std::memcpy(leave + sizeof(jump), &target, sizeof(target));
            };
            prepare(plain);
            Registers original = start;
            sm_test_enter(&original, plain.original());
            auto original_memory = plain.memory();

            // The same pages again, so that addresses in registers are the same.
            std::memset(plain.data(), 0x5a, 4096);
            std::memset(plain.stack(), 0xa5, 4096);
            DisplacedCode area(gva(plain.displaced()), 4096);
            auto resume = area.add(c.instruction, c.bytes);
            ASSERT_TRUE(resume) << resume.error().message();
            std::memcpy(plain.displaced(), area.bytes().data(), area.bytes().size());
            Registers displaced = start;
            sm_test_enter(&displaced, reinterpret_cast<const void*>(resume->if0.value));
            EXPECT_EQ(original, displaced) << c.instruction.text();
            EXPECT_EQ(original_memory, plain.memory()) << c.instruction.text();
        }
    }
}

} // namespace
} // namespace shadowmon
