// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/displaced_code.h"

namespace shadowmon {

namespace {

constexpr std::byte int3{0xcc};
constexpr size_t alignment = 16;

} // namespace

DisplacedCode::DisplacedCode(Gva base, size_t max_size) : base_(base), max_size_(max_size) {
    // Code that got lost to the start of a page meets an INT3, not a displaced instruction.
    code_.assign(alignment, int3);
}

Result<Gva> DisplacedCode::emit(const Displaced& displaced, bool interrupts_on) {
    Gva at = base_ + code_.size();
    auto piece = displace(displaced, at, interrupts_on);
    if (!piece)
        return fail(piece.error());
    piece->resize((piece->size() + alignment - 1) / alignment * alignment, int3);
    if (code_.size() + piece->size() > max_size_)
        return failf("no room for more displaced instructions: {} bytes are taken", code_.size());
    code_.insert(code_.end(), piece->begin(), piece->end());
    return at;
}

Result<Resume> DisplacedCode::add(const Displaced& displaced) {
    size_t before = code_.size();
    auto if1 = emit(displaced, true);
    auto if0 = if1 ? emit(displaced, false) : if1;
    if (!if0) {
        code_.resize(before);
        return fail(if0.error());
    }
    return Resume{*if1, *if0};
}

Result<Resume> DisplacedCode::add(const Instruction& instruction,
                                  std::span<const std::byte> bytes) {
    bytes = bytes.first(instruction.length());
    return add(Displaced{{instruction}, {bytes.begin(), bytes.end()}});
}

} // namespace shadowmon
