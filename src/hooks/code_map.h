// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/instruction.h"

#include <memory>
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
/// falling through. Owns a copy of the bytes, less than 2 GiB.
///
/// The bytes are the guest's. Whatever they are, the work is linear in their number. A function
/// with bytes that are no code, with a breakpoint in its way, or with a foreign hook, is unclear
/// from there on.
///
/// A function is decoded, linearly from its start, when it is first asked for, or when it may lead
/// to an address that is: what is known of all code at first is only where the bytes of possible
/// operands are. Answers do not depend on what was asked before. Not for several threads at once.
///
/// What merely looks like an address counts as a target, but as no proof of a breakpoint: KASLR
/// puts the text where some constant of the code points to padding.
class CodeMap {
  public:
    /// Functions begin at `entries`, ascending; `thunks` are the functions whose jump leads to
    /// where a register says.
    CodeMap(Gva start, std::vector<std::byte> bytes, std::span<const Gva> entries,
            std::vector<Gva> thunks);
    CodeMap(CodeMap&&) noexcept;
    CodeMap& operator=(CodeMap&&) noexcept;
    ~CodeMap();

    Gva start() const { return start_; }
    Gva end() const { return start_ + bytes_.size(); }
    bool contains(Gva gva) const { return gva >= start_ && gva < end(); }
    std::span<const std::byte> bytes(Gva from, Gva to) const;

    /// Functions have numbers, in the order of their addresses.
    size_t function_count() const;
    Gva function_start(size_t number) const;
    /// Nothing in front of the first function.
    std::optional<size_t> function_number(Gva gva) const;

    const Function& function(size_t number) const;
    /// The function around an address, or null in front of the first one.
    const Function* function(Gva gva) const;

    bool is_start(Gva gva) const;
    bool is_target(Gva gva) const;

    /// Something else leads there: a table, a pointer. Outside the code, nothing is noted.
    void add_target(Gva gva);

    /// The instruction that begins there, within its function.
    std::optional<Instruction> instruction(Gva gva) const;

    /// Where the instruction around `gva` begins; nothing in front of the function's first one.
    std::optional<Gva> start_around(Gva gva) const;

  private:
    class Sweep;

    Gva start_;
    std::vector<std::byte> bytes_;
    std::unique_ptr<Sweep> sweep_; ///< what was found so far
};

} // namespace shadowmon
