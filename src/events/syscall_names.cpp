// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/syscall_names.h"

#include <fmt/format.h>

#include <array>

namespace shadowmon {
namespace {

struct Name {
    unsigned number;
    std::string_view text;
};

#define NAME(number, text) Name{number, text},
constexpr Name syscalls64[] = {
#include "syscalls_64.inc"
};
constexpr Name syscalls32[] = {
#include "syscalls_32.inc"
};
constexpr Name errno_names[] = {
#include "errnos.inc"
};
#undef NAME

/// The names by number, so that looking one up is one bounds check and one load.
template <const auto& names> constexpr auto make_index() {
    constexpr unsigned highest = [] {
        unsigned max = 0;
        for (const Name& name : names)
            max = name.number > max ? name.number : max;
        return max;
    }();
    std::array<std::string_view, highest + 1> index{};
    for (const Name& name : names)
        index[name.number] = name.text;
    return index;
}

constexpr auto index64 = make_index<syscalls64>();
constexpr auto index32 = make_index<syscalls32>();
constexpr auto errno_index = make_index<errno_names>();

template <size_t N>
std::string_view find(const std::array<std::string_view, N>& index, uint64_t number) {
    return number < N ? index[number] : std::string_view{};
}

} // namespace

std::string_view syscall_name(int32_t nr, bool compat) {
    const auto number = static_cast<uint32_t>(nr);
    return compat ? find(index32, number) : find(index64, number);
}

std::string syscall_label(int32_t nr, bool compat) {
    std::string_view name = syscall_name(nr, compat);
    return name.empty() ? fmt::format("syscall_{}", nr) : std::string(name);
}

std::string_view errno_name(int64_t ret) {
    return is_error(ret) ? find(errno_index, static_cast<uint64_t>(-ret)) : std::string_view{};
}

} // namespace shadowmon
