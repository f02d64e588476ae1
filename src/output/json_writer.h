// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/output/writer.h"
#include <shadowmonitor/escape.h>
#include <shadowmonitor/event.h>

namespace shadowmon {

/// Integers up to here survive a reader that keeps numbers as doubles.
inline constexpr uint64_t json_max_integer = (uint64_t{1} << 53) - 1;

/// Writer with JSON's values. Names of keys are the caller's and need no escaping.
class JsonWriter : public Writer {
  public:
    using Writer::Writer;

    void count(uint64_t value) {
        if (value <= json_max_integer)
            decimal(value);
        else
            text("\"").decimal(value).text("\"");
    }

    void signed_count(int64_t value) {
        if (value >= 0)
            count(static_cast<uint64_t>(value));
        else if (value >= -static_cast<int64_t>(json_max_integer))
            decimal(value);
        else
            text("\"").decimal(value).text("\"");
    }

    void hex_string(uint64_t value) { text("\"").hex(value).text("\""); }

    void comm(const Comm& comm) { string<sizeof(Comm)>(comm.view()); }

    /// Any bytes, at most Max of them.
    template <size_t Max> void string(std::string_view bytes) {
        char escaped[4 * Max];
        const char* end = escape_to(escaped, bytes.substr(0, Max), false);
        text("\"");
        char* out = at();
        // escape_to() leaves only these two for JSON to mind.
        for (const char* c = escaped; c != end; ++c) {
            if (*c == '"' || *c == '\\')
                *out++ = '\\';
            *out++ = *c;
        }
        set(out);
        text("\"");
    }
};

/// {"syscall_enter":8,...}: the types that were counted.
inline void put_type_counts(JsonWriter& w, const TypeCounts& counts) {
    const char* separator = "{\"";
    for (unsigned type = 0; type < event_types; ++type) {
        if (counts[type] == 0)
            continue;
        w.text(separator).text(event_type_name(type)).text("\":");
        w.count(counts[type]);
        separator = ",\"";
    }
    w.text(*separator == '{' ? "{}" : "}");
}

} // namespace shadowmon
