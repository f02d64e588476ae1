// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shadowmon {

/// Name of a system call in the 64-bit or the 32-bit table of the kernel's headers
/// that this was built with; empty if they have no such number.
std::string_view syscall_name(int32_t nr, bool compat);

/// The name, or "syscall_NNN" where there is none.
std::string syscall_label(int32_t nr, bool compat);

/// "ENOENT" for -2 and so on; empty if `ret` is not in -4095..-1 or has no name.
/// Knows the codes that only restart a system call (-512..) as well.
std::string_view errno_name(int64_t ret);

/// True for what the system-call convention takes for an error.
constexpr bool is_error(int64_t ret) { return ret < 0 && ret >= -4095; }

} // namespace shadowmon
