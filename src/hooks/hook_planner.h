// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/displace.h"
#include "src/hooks/kernel_code.h"

#include <string>

namespace shadowmon {

/// No run of displaced instructions is longer: one byte, STI, what the STI shields.
inline constexpr unsigned max_displaced = 4;

struct HookPolicy {
    bool branch_tracking = false; ///< the guest's kernel runs with supervisor IBT
    bool noinstr = false;         ///< noinstr code may carry hooks, too
    /// Where ftrace's NOP is there may be a CALL of the gate: the kernel does not schedule in
    /// interrupts of its own code (see the CALL gate), and hooks are hidden from it.
    bool call_gate = false;
};

/// What was found about one address.
struct Judgement {
    Refusal refusal = Refusal::none;
    Refusal successor = Refusal::none; ///< with Refusal::successor: what is wrong with that one
    uint8_t displaced = 0;             ///< instructions; 0 if refused
    Gate gate = Gate::interrupt;
};

/// Decides for any address of the kernel's text whether it can carry a hook, and which
/// instructions the hook displaces. Runs on the host; nothing is changed in the guest.
///
/// A hook by INT 20 takes two bytes. An instruction of one byte takes its successor along, and an
/// STI whose effect is still to come takes the instruction that it shields; where something could
/// come between the first and the second byte of the hook, there is no hook. A hook by CALL takes
/// the place of one NOP.
class HookPlanner {
  public:
    /// `symbols` gives names to messages and has to live as long as this; may be null. `module`:
    /// whose code it is; empty: the kernel's own.
    HookPlanner(KernelCode code, HookPolicy policy, const Kallsyms* symbols,
                std::string module = {});

    const KernelCode& code() const { return code_; }
    const std::string& module() const { return module_; }
    const Kallsyms* symbols() const { return symbols_; }

    Judgement judge(Gva at) const;

    /// The instructions that a hook there displaces. The error says why there can be none, and
    /// what is around the address.
    Result<Displaced> plan(Gva at) const;

    /// The same without asking again: for an address that judge() accepts.
    Displaced displaced(Gva at, const Judgement& judgement) const;

    /// "vfs_read+0x2a", "ext4:ext4_file_open+0x2a"
    std::string where(Gva at) const;

  private:
    bool is_padding(Gva at, const Function& function) const;
    Refusal function_limit(const Function& function) const;
    Refusal judge_place(Gva at) const;
    Refusal judge_one(const Instruction& instruction, const Function& function) const;
    Judgement judge_run(Gva at, const Function& function) const;
    Judgement judge_call(const Instruction& nop) const;
    Refusal judge_second_byte(const Instruction& first, const Function& function) const;
    std::string neighbours(Gva at) const;

    KernelCode code_;
    HookPolicy policy_;
    const Kallsyms* symbols_;
    std::string module_;
};

/// As users name a place in a module: "ext4:ext4_file_open". Without a module it is the name.
std::string in_module(const std::string& module, std::string_view name);

} // namespace shadowmon
