// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/instruction.h"

#include <span>
#include <vector>

namespace shadowmon {

/// Re-encodes an instruction so that it does at `to` what it does at its own
/// address: RIP-relative operands keep the address they name. Control flow is
/// refused. The result was decoded again and compared with the original.
Result<std::vector<std::byte>> displace(const Instruction& instruction,
                                        std::span<const std::byte> bytes, Gva to);

/// Where the gate sends the guest on after a hook.
struct Resume {
    Gva if1; ///< instruction; sti; jmp back: for a site entered with interrupts on
    Gva if0; ///< instruction; jmp back
};

/// The code of the displaced-instruction pages. Owns the bytes until they are
/// copied to the region; what is between the pieces of code is INT3.
///
/// The gate comes here with interrupts off. The STI of the first variant takes
/// effect after the jump, so no task is ever preempted in the compartment.
class DisplacedCode {
  public:
    /// Code that will run at `base`, at most `max_size` bytes.
    DisplacedCode(Gva base, size_t max_size);

    Result<Resume> add(const Instruction& instruction, std::span<const std::byte> bytes);

    std::span<const std::byte> bytes() const { return code_; }

  private:
    Result<Gva> emit(const Instruction& instruction, std::span<const std::byte> bytes,
                     bool with_sti);

    Gva base_;
    size_t max_size_;
    std::vector<std::byte> code_;
};

} // namespace shadowmon
