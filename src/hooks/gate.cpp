// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/gate.h"

#include <cassert>
#include <cstdint>
#include <cstring>

namespace shadowmon {

const char* name(Gate gate) { return gate == Gate::call ? "call" : "int20"; }

std::array<std::byte, call_hook_size> call_hook(Gva at, Gva target) {
    constexpr std::byte call_rel32{0xe8};
    int64_t distance = static_cast<int64_t>(target.value - (at + call_hook_size).value);
    auto rel = static_cast<int32_t>(distance);
    assert(rel == distance);
    std::array<std::byte, call_hook_size> code{call_rel32};
    std::memcpy(code.data() + 1, &rel, sizeof(rel));
    return code;
}

} // namespace shadowmon
