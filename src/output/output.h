// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"
#include "src/output/sink.h"

#include <memory>
#include <shadowmonitor/output.h>

namespace shadowmon {

std::unique_ptr<Output> make_output(OutputFormat format, Sink sink);

} // namespace shadowmon
