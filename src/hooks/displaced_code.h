// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/displace.h"

#include <span>
#include <vector>

namespace shadowmon {

/// Where the gate sends the guest on after a hook.
struct Resume {
    Gva if1; ///< for a site entered with interrupts on
    Gva if0; ///< with interrupts off
};

/// The code of the displaced-instruction pages. Owns the bytes until they are
/// copied to the region; what is between the pieces of code is INT3.
class DisplacedCode {
  public:
    /// Code that will run at `base`, at most `max_size` bytes.
    DisplacedCode(Gva base, size_t max_size);

    /// Appends both pieces for a run of instructions; on failure nothing is appended.
    Result<Resume> add(const Displaced& displaced);

    /// The same for one instruction.
    Result<Resume> add(const Instruction& instruction, std::span<const std::byte> bytes);

    std::span<const std::byte> bytes() const { return code_; }

  private:
    Result<Gva> emit(const Displaced& displaced, bool interrupts_on);

    Gva base_;
    size_t max_size_;
    std::vector<std::byte> code_;
};

} // namespace shadowmon
