// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace shadowmon::test {

/// All registers that an instruction in user mode can see.
struct Registers {
    std::array<uint64_t, 16> gpr{}; ///< in the order of their encoding: rax, rcx, rdx, rbx, rsp...
    uint64_t flags = 2;
    uint64_t rip = 0;
    std::array<std::byte, 256> xmm{};
    std::array<std::byte, 256> ymm_high{};
    uint32_t mxcsr = 0x1f80;
    std::array<std::byte, 6> fpu_control{}; ///< control, status and tag word
    std::array<std::byte, 128> fpu_stack{};
};

/// How code ended.
struct Ending {
    int signal = 0; ///< SIGTRAP: it reached an INT3; else a fault, or SIGVTALRM: it never ended
    int code = 0;   ///< of the signal
    uint64_t address = 0; ///< of a page fault
    Registers registers;  ///< rip: where it went on, or of the fault
    std::vector<std::byte> data;
    std::vector<std::byte> stack;
    bool interrupts = false; ///< on, as STI and CLI made it; they fault here and are done for it
    std::string wrong;       ///< a promise about interrupts that was broken
};

/// Memory in which code runs and what it can reach: a place for the original, two for its
/// displaced form (within and out of the reach of a 32-bit displacement), data, a stack, and a
/// page to jump to, each between inaccessible pages. INT3 is wherever no code was put, so
/// whoever leaves the code put there is seen.
///
/// One object per process, which it takes the signals of; made to be used in a child.
class Fence {
  public:
    static constexpr size_t data_size = 8 << 10;
    static constexpr size_t stack_size = 16 << 10;

    Fence();
    Fence(const Fence&) = delete;
    Fence& operator=(const Fence&) = delete;

    static Gva original();
    static Gva near_piece();
    static Gva far_piece();
    static Gva targets(); ///< a page full of INT3
    static Gva data();
    static Gva stack();
    static Gva gs_base(); ///< in front of the data, near enough for small offsets

    /// What data and stack hold when the code starts.
    std::span<std::byte> data_at_start() { return data_; }
    std::span<std::byte> stack_at_start() { return stack_; }

    /// Whether it is an error when interrupts come on before the very instruction that leaves.
    enum class Guard { off, on };

    /// Puts code somewhere and runs it, with interrupts on or off, until it leaves.
    Ending run(Gva at, std::span<const std::byte> code, const Registers& start, bool interrupts,
               Guard guard);

  private:
    std::vector<std::byte> data_;
    std::vector<std::byte> stack_;
};

} // namespace shadowmon::test
