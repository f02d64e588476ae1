// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/event.h>
#include <shadowmonitor/result.h>
#include <shadowmonitor/summary.h>

#include <memory>
#include <string>
#include <string_view>

namespace shadowmon {

/// One way to write events out; one serializer per format. Owns its file. One thread uses it.
class Output {
  public:
    virtual ~Output() = default;

    /// Adds an event to the buffer. Errors of writing are told by flush() or finish().
    virtual void event(const Event& event) = 0;

    /// Writes out what is in the buffer: after each batch, if somebody watches live.
    /// The first error is returned once; from then on events are thrown away.
    virtual Status flush() = 0;

    /// Writes the summary, flushes and closes.
    virtual Status finish(const Summary& summary) = 0;
};

/// The formats of `shadowmon trace`: a line per event for people, or JSON lines.
enum class OutputFormat { kText, kJson };

/// "text" or "json"; the error lists them.
Result<OutputFormat> parse_output_format(std::string_view name);

/// Creates or empties a file; "-" is standard output. The process must ignore SIGPIPE to be told
/// of a reader that has gone by an error in place of the signal.
Result<std::unique_ptr<Output>> open_output(OutputFormat format, const std::string& path);

/// A summary by itself, in lines for people.
std::string to_text(const Summary& summary);

/// The same as one JSON object without the line's end, with the keys
///   "kind": "summary", "events", "by_kind": {kind: number, ...}, "first", "last" (times or
///   null), "late", "lost", "lost_by_kind", "lost_by_ring": [{"ring", "dropped": {kind:
///   number}, "abandoned": {kind: number}, "missing"}], "broken_rings", "processes": [{"pid",
///   "comm", "events", "syscalls", "switches"}], "process_count", "syscalls": [{"name", "nr",
///   "compat", "calls", "returns", "errors"}], "syscall_count", "hooks": [{"name", "hits"}],
///   "hook_count", "irqs": [{"handler", "entries", "timed", "unpaired", "total_ns"}], "irq_count",
///   "figures": {key: number}
std::string to_json(const Summary& summary);

} // namespace shadowmon
