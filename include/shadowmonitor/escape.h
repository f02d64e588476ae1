// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shadowmon {

/// Bytes that a guest chose, made safe for terminals, logs and JSON, reversibly:
///   - a backslash becomes two;
///   - control characters, bytes that are no valid UTF-8, and characters that can change
///     how a terminal shows the rest of a line (C1 controls, bidirectional and other
///     invisible formatting) become \xNN for each of their bytes;
///   - all else stays. With `blanks`, a space becomes \x20, for formats with columns.
/// Writes at most 4 * text.size() bytes at `out`, returns the end.
char* escape_to(char* out, std::string_view text, bool blanks);

std::string escape(std::string_view text, bool blanks);

/// Undoes escape(). What escape() cannot have made is kept as it is.
std::string unescape(std::string_view text);

} // namespace shadowmon
