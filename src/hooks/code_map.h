// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/code_head.h"
#include "src/hooks/instruction.h"

#include <optional>
#include <span>
#include <vector>

namespace shadowmon {

/// A function of the kernel, from its symbol to the next one.
struct Function {
    Gva start;
    Gva end;
    bool computed_jump = false; ///< has an indirect jump, or one to an indirect-branch thunk
    bool changes_gs = false;    ///< has a SWAPGS
    Gva unclear_from;           ///< from here on, nobody knows where instructions begin; or end
};

/// A stretch of code: where instructions begin, and where something leads to other than by
/// falling through. Owns a copy of the bytes; decoded once, linearly from each function's start,
/// when it is made.
///
/// The bytes are the guest's. Whatever they are, the work is linear in their number. A function
/// with bytes that are no code, with a breakpoint in its way, or with a foreign hook, is unclear
/// from there on.
///
/// What merely looks like an address counts as a target, but as no proof of a breakpoint: KASLR
/// puts the text where some constant of the code points to padding.
class CodeMap {
  public:
    /// Functions begin at `entries`, ascending; `thunks` are the functions whose jump leads to
    /// where a register says.
    CodeMap(Gva start, std::vector<std::byte> bytes, std::span<const Gva> entries,
            std::span<const Gva> thunks);

    Gva start() const { return start_; }
    Gva end() const { return start_ + bytes_.size(); }
    bool contains(Gva gva) const { return gva >= start_ && gva < end(); }
    std::span<const std::byte> bytes(Gva from, Gva to) const;

    /// The function around an address, or null in front of the first one.
    const Function* function(Gva gva) const;
    std::span<const Function> functions() const { return functions_; }

    bool is_start(Gva gva) const { return test(starts_, gva); }
    bool is_target(Gva gva) const { return test(targets_, gva); }

    /// Something else leads there: a table, a pointer. Outside the code, nothing is noted.
    void add_target(Gva gva) { set(targets_, gva); }

    /// The instruction that begins there, within its function.
    std::optional<Instruction> instruction(Gva gva) const;

    /// Where the instruction around `gva` begins; nothing in front of the function's first one.
    std::optional<Gva> start_around(Gva gva) const;

  private:
    using Bits = std::vector<bool>;
    bool test(const Bits& bits, Gva gva) const { return contains(gva) && bits[gva - start_]; }
    void set(Bits& bits, Gva gva) {
        if (contains(gva))
            bits[gva - start_] = true;
    }
    struct Evidence;
    void sweep(Function& function, std::span<const Gva> thunks, Evidence& evidence);
    void note_operands(const CodeHead& head, Gva end, Function& function,
                       std::span<const Gva> thunks, Evidence& evidence);
    void find_breakpoints_jumped_to(const Evidence& evidence);

    Gva start_;
    std::vector<std::byte> bytes_;
    std::vector<Function> functions_; ///< ascending
    Bits starts_;
    Bits targets_;
};

} // namespace shadowmon
