// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/base/result.h"

#include <system_error>

namespace shadowmon {

Error Error::from_errno(const std::string& message, int code) {
    return Error(message + ": " + std::generic_category().message(code), code);
}

} // namespace shadowmon
