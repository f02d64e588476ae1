// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/output/output.h"

#include "src/output/json_output.h"
#include "src/output/text_output.h"

namespace shadowmon {

Result<OutputFormat> parse_output_format(std::string_view name) {
    if (name == "text")
        return OutputFormat::kText;
    if (name == "json")
        return OutputFormat::kJson;
    return failf("there is no output format \"{}\"; there are: text, json", name);
}

Result<std::unique_ptr<Output>> open_output(OutputFormat format, const std::string& path) {
    auto sink = Sink::open(path);
    if (!sink)
        return fail(sink.error());
    return make_output(format, std::move(*sink));
}

std::unique_ptr<Output> make_output(OutputFormat format, Sink sink) {
    if (format == OutputFormat::kJson)
        return std::make_unique<JsonOutput>(std::move(sink));
    return std::make_unique<TextOutput>(std::move(sink));
}

} // namespace shadowmon
