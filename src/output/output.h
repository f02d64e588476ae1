// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"
#include "src/events/event.h"
#include "src/output/sink.h"
#include "src/output/summary.h"

#include <memory>
#include <string_view>

namespace shadowmon {

/// One way to write events out; one serializer per format. Owns its sink.
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

enum class OutputFormat { kText, kJson };

/// "text" or "json"; the error lists them.
Result<OutputFormat> parse_output_format(std::string_view name);

std::unique_ptr<Output> make_output(OutputFormat format, Sink sink);

} // namespace shadowmon
