// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace shadowmon {

/// As much of an instruction as it takes to sweep over code: how long it is, and where it leads or
/// may point to.
struct CodeHead {
    enum class Kind : uint8_t {
        plain,
        ends_flow, ///< nothing falls through it, or a call, which may not return
        jump,      ///< JMP of any kind
        undefined, ///< UD2, which ends the flow, too
        gate_int,  ///< INT 20
        swapgs,
    };
    uint8_t length = 0;
    Kind kind = Kind::plain;
    bool is_relative = false; ///< leads to its end + `relative`
    bool has_imm = false;     ///< an immediate of 32 bits, extended by its sign, or of 64
    bool has_disp = false;    ///< a displacement of 32 bits
    bool disp_is_rip = false; ///< counted from the instruction's end
    int32_t relative = 0;
    int32_t disp = 0;
    uint64_t imm = 0;

    bool operator==(const CodeHead&) const = default;
};

/// The instruction that `bytes` begin with; nothing if they begin with none.
std::optional<CodeHead> read_head(std::span<const std::byte> bytes);

/// Its two ways. Zydis knows every instruction, at a thousand instructions of the host for each.
/// The quick one knows the plain forms of those that make up nearly all of a kernel, says nothing
/// of any other bytes, and is held against Zydis on the whole text of stock kernels by a test.
std::optional<CodeHead> read_head_by_zydis(std::span<const std::byte> bytes);
std::optional<CodeHead> read_head_quickly(std::span<const std::byte> bytes);

} // namespace shadowmon
