// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"

#include <Zydis/Zydis.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace shadowmon {

/// One decoded instruction of 64-bit code at a guest-virtual address.
struct Instruction {
    Gva address;
    ZydisDecodedInstruction info;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    /// Decodes the first instruction of `bytes`; nothing if they are none.
    static std::optional<Instruction> decode(Gva address, std::span<const std::byte> bytes);

    /// The same without operands, which is much quicker; false if there is no instruction.
    static bool decode_head(std::span<const std::byte> bytes, ZydisDecodedInstruction& info);

    uint8_t length() const { return info.length; }
    Gva end() const { return address + info.length; }
    std::string text() const; ///< in Intel syntax

    /// The memory operand relative to RIP, or null.
    const ZydisDecodedOperand* rip_relative() const;

    /// Where a direct jump or call goes; nothing for every other instruction.
    std::optional<Gva> branch_target() const;

    /// True if it may change `reg` (a 64-bit register) or a part of it.
    bool writes(ZydisRegister reg) const;
};

} // namespace shadowmon
