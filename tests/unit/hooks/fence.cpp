// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/hooks/fence.h"

#include <algorithm>
#include <asm/prctl.h>
#include <cpuid.h>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <unistd.h>

namespace shadowmon::test {

namespace {

constexpr uint64_t low = 0x20000000;
constexpr uint64_t code_page = low + 0x1000;
constexpr uint64_t near_page = low + 0x100000;
constexpr uint64_t target_page = low + 0x200000;
constexpr uint64_t data_start = low + 0x300000;
constexpr uint64_t stack_start = low + 0x400000;
constexpr uint64_t far_page = 0x300000000000;

constexpr size_t page_size = 0x1000;
constexpr size_t code_size = 2 * page_size;
constexpr int int3 = 0xcc;
constexpr uint8_t op_cli = 0xfa;
constexpr uint8_t op_sti = 0xfb;
constexpr long long trap_flag = 0x100;
/// CF, PF, AF, ZF, SF, DF, OF, ID: neither TF nor AC, which would make other code fault.
constexpr uint64_t visible_flags = 0xcd5 | 0x200000;
/// The trap flag's #DB and INT3's #BP are both SIGTRAP.
constexpr int after_step = TRAP_TRACE;

// XSAVE's standard format: legacy area, header, then components.
constexpr size_t xmm_offset = 160;
constexpr size_t fpu_stack_offset = 32;
constexpr size_t mxcsr_offset = 24;
constexpr size_t extended_size_offset = 468; // of struct _fpx_sw_bytes
constexpr size_t xstate_bv_offset = 512;
constexpr uint64_t x87_sse_avx = 7;

constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                           REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/// What the handler works on: plain, because it runs with any registers.
struct Run {
    volatile sig_atomic_t phase = 0; ///< 0 idle, 1 about to start, 2 running
    volatile uint64_t number = 0;
    uint64_t number_at_tick = 0;
    const Registers* start = nullptr;
    uint64_t piece = 0;
    size_t piece_size = 0;
    bool guarded = false;
    bool stepping = false;
    Ending* ending = nullptr;
    gregset_t saved;
    std::array<std::byte, 16384> saved_fpu;
    size_t fpu_size = 0;
    size_t ymm_offset = 0;
} g;

std::byte* fpu_of(ucontext_t* context) {
    return reinterpret_cast<std::byte*>(context->uc_mcontext.fpregs);
}

void load(ucontext_t* context, const Registers& r) {
    gregset_t& to = context->uc_mcontext.gregs;
    for (size_t i = 0; i < 16; i++)
        to[order[i]] = static_cast<long long>(r.gpr[i]);
    to[REG_EFL] = static_cast<long long>((r.flags & visible_flags) | 0x202);
    to[REG_RIP] = static_cast<long long>(r.rip);
    std::byte* fpu = fpu_of(context);
    std::memcpy(fpu + xmm_offset, r.xmm.data(), r.xmm.size());
    std::memcpy(fpu + mxcsr_offset, &r.mxcsr, sizeof(r.mxcsr));
    std::memcpy(fpu + g.ymm_offset, r.ymm_high.data(), r.ymm_high.size());
    uint64_t xstate_bv = 0;
    std::memcpy(&xstate_bv, fpu + xstate_bv_offset, sizeof(xstate_bv));
    xstate_bv |= x87_sse_avx;
    std::memcpy(fpu + xstate_bv_offset, &xstate_bv, sizeof(xstate_bv));
}

void store(ucontext_t* context, Registers& r) {
    const gregset_t& from = context->uc_mcontext.gregs;
    for (size_t i = 0; i < 16; i++)
        r.gpr[i] = static_cast<uint64_t>(from[order[i]]);
    r.flags = static_cast<uint64_t>(from[REG_EFL]) & visible_flags;
    r.rip = static_cast<uint64_t>(from[REG_RIP]);
    const std::byte* fpu = fpu_of(context);
    uint64_t xstate_bv = 0;
    std::memcpy(&xstate_bv, fpu + xstate_bv_offset, sizeof(xstate_bv));
    // A component that is in its initial state is not written.
    r.xmm = {};
    r.ymm_high = {};
    r.fpu_stack = {};
    if (xstate_bv & 2)
        std::memcpy(r.xmm.data(), fpu + xmm_offset, r.xmm.size());
    if (xstate_bv & 4)
        std::memcpy(r.ymm_high.data(), fpu + g.ymm_offset, r.ymm_high.size());
    if (xstate_bv & 1)
        std::memcpy(r.fpu_stack.data(), fpu + fpu_stack_offset, r.fpu_stack.size());
    std::memcpy(&r.mxcsr, fpu + mxcsr_offset, sizeof(r.mxcsr));
    std::memcpy(r.fpu_control.data(), fpu, r.fpu_control.size());
}

void end_run(ucontext_t* context, int signal, const siginfo_t* info) {
    Ending& ending = *g.ending;
    ending.signal = signal;
    ending.code = info->si_code;
    store(context, ending.registers);
    if (signal == SIGTRAP)
        ending.registers.rip--; // back onto the INT3
    if (signal == SIGSEGV || signal == SIGBUS)
        ending.address = reinterpret_cast<uint64_t>(info->si_addr);
    std::memcpy(context->uc_mcontext.gregs, g.saved, sizeof(g.saved));
    std::memcpy(fpu_of(context), g.saved_fpu.data(), g.fpu_size);
    g.phase = 0;
}

bool in_piece(uint64_t rip) { return rip >= g.piece && rip < g.piece + g.piece_size; }

/// REX, or one of the older ones.
bool is_prefix(uint8_t byte) {
    constexpr uint8_t old[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3};
    return (byte & 0xf0) == 0x40 ||
           std::find(std::begin(old), std::end(old), byte) != std::end(old);
}

/// STI and CLI fault in user mode; done here instead. True if that was it.
bool emulate_interrupt_flag(ucontext_t* context) {
    gregset_t& regs = context->uc_mcontext.gregs;
    auto rip = static_cast<uint64_t>(regs[REG_RIP]);
    while (in_piece(rip) && is_prefix(*reinterpret_cast<const uint8_t*>(rip)))
        rip++;
    if (!in_piece(rip))
        return false;
    uint8_t opcode = *reinterpret_cast<const uint8_t*>(rip);
    if (opcode != op_sti && opcode != op_cli)
        return false;
    regs[REG_RIP] = static_cast<long long>(rip + 1);
    g.ending->interrupts = opcode == op_sti;
    if (g.guarded && opcode == op_sti) {
        regs[REG_EFL] |= trap_flag;
        g.stepping = true;
    } else if (g.guarded) {
        g.ending->wrong = "CLI in displaced code";
    }
    return true;
}

void handle(int signal, siginfo_t* info, void* raw) {
    // The kernel leaves AC as it was, and this code accesses what is not aligned.
    asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
    auto* context = static_cast<ucontext_t*>(raw);
    gregset_t& regs = context->uc_mcontext.gregs;
    if (signal == SIGVTALRM) {
        if (g.phase != 2 || g.number != g.number_at_tick) {
            g.number_at_tick = g.number;
            return;
        }
        end_run(context, signal, info);
        return;
    }
    if (g.phase == 1 && signal == SIGTRAP) {
        std::memcpy(g.saved, regs, sizeof(g.saved));
        uint32_t size = 0;
        std::memcpy(&size, fpu_of(context) + extended_size_offset, sizeof(size));
        g.fpu_size = std::min<size_t>(size, g.saved_fpu.size());
        std::memcpy(g.saved_fpu.data(), fpu_of(context), g.fpu_size);
        load(context, *g.start);
        g.phase = 2;
        return;
    }
    if (g.phase != 2) {
        // Not ours: let it end the process.
        ::signal(signal, SIG_DFL);
        return;
    }
    if (signal == SIGSEGV && emulate_interrupt_flag(context))
        return;
    if (g.stepping) {
        regs[REG_EFL] &= ~trap_flag;
        g.stepping = false;
        if (signal == SIGTRAP && info->si_code == after_step) {
            if (in_piece(static_cast<uint64_t>(regs[REG_RIP])))
                g.ending->wrong = "interrupts come on before displaced code is left";
            return;
        }
    }
    end_run(context, signal, info);
}

void open_memory(uint64_t at, size_t size, int rights) {
    void* page = mmap(reinterpret_cast<void*>(at), size, rights,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (page != reinterpret_cast<void*>(at))
        throw std::runtime_error("the fence's place in memory is taken");
}

void open_code(uint64_t at, size_t size) {
    open_memory(at, size, PROT_READ | PROT_WRITE | PROT_EXEC);
    std::memset(reinterpret_cast<void*>(at), int3, size);
}

/// Where a signal saves the upper halves of the vector registers.
void find_fpu_layout() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(0xd, 2, &a, &b, &c, &d) || a != 256)
        throw std::runtime_error("this CPU has no AVX state");
    g.ymm_offset = b;
}

} // namespace

Gva Fence::original() { return Gva(code_page + page_size); }
Gva Fence::near_piece() { return Gva(near_page + 0x800); }
Gva Fence::far_piece() { return Gva(far_page + 0x800); }
Gva Fence::targets() { return Gva(target_page); }
Gva Fence::data() { return Gva(data_start); }
Gva Fence::stack() { return Gva(stack_start); }
Gva Fence::gs_base() { return Gva(data_start - 0x100); }

Fence::Fence() : data_(data_size), stack_(stack_size) {
    find_fpu_layout();
    open_code(code_page, code_size);
    open_code(near_page, page_size);
    open_code(target_page, page_size);
    open_code(far_page, page_size);
    open_memory(data_start, data_size, PROT_READ | PROT_WRITE);
    open_memory(stack_start, stack_size, PROT_READ | PROT_WRITE);
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, gs_base().value) != 0)
        throw std::runtime_error("cannot set the GS base");

    static std::array<std::byte, 65536> handler_stack;
    stack_t alternate{};
    alternate.ss_sp = handler_stack.data();
    alternate.ss_size = handler_stack.size();
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaltstack(&alternate, nullptr);
    for (int signal : {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGVTALRM})
        sigaction(signal, &action, nullptr);
    // Of time spent in code: the kernel may let a process sleep for its split locks.
    const itimerval tick{{1, 0}, {1, 0}};
    setitimer(ITIMER_VIRTUAL, &tick, nullptr);
}

Ending Fence::run(Gva at, std::span<const std::byte> code, const Registers& start, bool interrupts,
                  Guard guard) {
    auto* place = reinterpret_cast<std::byte*>(at.value);
    std::memcpy(reinterpret_cast<void*>(data_start), data_.data(), data_size);
    std::memcpy(reinterpret_cast<void*>(stack_start), stack_.data(), stack_size);
    std::memcpy(place, code.data(), code.size());
    Registers registers = start;
    registers.rip = at.value;
    Ending ending;
    ending.interrupts = interrupts;
    g.start = &registers;
    g.ending = &ending;
    g.piece = at.value;
    g.piece_size = code.size();
    g.guarded = guard == Guard::on;
    g.stepping = false;
    g.number = g.number + 1;
    g.phase = 1;
    asm volatile("int3" ::: "memory", "cc");
    std::memset(place, int3, code.size());
    const auto* data = reinterpret_cast<const std::byte*>(data_start);
    const auto* stack = reinterpret_cast<const std::byte*>(stack_start);
    ending.data.assign(data, data + data_size);
    ending.stack.assign(stack, stack + stack_size);
    return ending;
}

} // namespace shadowmon::test
