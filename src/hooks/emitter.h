// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace shadowmon {

/// Writes displaced code that will run at `at`. It may use neither registers nor data: the
/// guest's registers are all live, and the page cannot be read.
class Emitter {
  public:
    explicit Emitter(Gva at) : at_(at) {}

    Gva here() const { return at_ + code_.size(); }
    const std::vector<std::byte>& code() const { return code_; }

    void emit(std::span<const std::byte> bytes);
    void emit(std::initializer_list<unsigned> bytes);

    /// Pushes an address of the first or last 2 GiB.
    Status push(Gva value);

    /// Leaves for `target`, with interrupts switched on on the way if `sti`: they come in after
    /// the very instruction that leaves. JMP where it reaches, else PUSH and RET.
    Status leave(Gva target, bool sti);

    /// Leaves by an indirect jump or a return as encoded in `bytes`.
    void leave_by(std::span<const std::byte> bytes, bool sti);

  private:
    void emit_imm32(uint64_t value);

    Gva at_;
    std::vector<std::byte> code_;
};

/// True if sign extension of the low 32 bits gives the value back.
constexpr bool fits_int32(uint64_t value) {
    return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(value))) == value;
}

} // namespace shadowmon
