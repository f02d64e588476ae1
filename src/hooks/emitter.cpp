// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/emitter.h"

namespace shadowmon {

namespace {

constexpr unsigned op_push_imm32 = 0x68;
constexpr unsigned op_ret = 0xc3;
constexpr unsigned op_jmp_rel32 = 0xe9;
constexpr unsigned op_sti = 0xfb;
constexpr size_t jmp_size = 5;

} // namespace

void Emitter::emit(std::span<const std::byte> bytes) {
    code_.insert(code_.end(), bytes.begin(), bytes.end());
}

void Emitter::emit(std::initializer_list<unsigned> bytes) {
    for (unsigned byte : bytes)
        code_.push_back(static_cast<std::byte>(byte));
}

void Emitter::emit_imm32(uint64_t value) {
    for (unsigned shift = 0; shift < 32; shift += 8)
        code_.push_back(static_cast<std::byte>(value >> shift));
}

Status Emitter::push(Gva value) {
    if (!fits_int32(value.value))
        return failf("{:#x} is outside the first and the last 2 GiB", value.value);
    emit({op_push_imm32});
    emit_imm32(value.value);
    return {};
}

Status Emitter::leave(Gva target, bool sti) {
    uint64_t distance = target - (here() + (sti ? 1 : 0) + jmp_size);
    if (fits_int32(distance)) {
        if (sti)
            emit({op_sti});
        emit({op_jmp_rel32});
        emit_imm32(distance);
        return {};
    }
    SM_TRY(push(target));
    if (sti)
        emit({op_sti});
    emit({op_ret});
    return {};
}

void Emitter::leave_by(std::span<const std::byte> bytes, bool sti) {
    if (sti)
        emit({op_sti});
    emit(bytes);
}

} // namespace shadowmon
