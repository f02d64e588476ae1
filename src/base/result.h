// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <fmt/format.h>
#include <shadowmonitor/result.h>

#include <utility>

namespace shadowmon {

template <typename... Args> Failure failf(fmt::format_string<Args...> format, Args&&... args) {
    return fail(Error(fmt::format(format, std::forward<Args>(args)...)));
}

} // namespace shadowmon

/// Leaves the function with the error of `status` if it holds one.
#define SM_TRY(status)                                                                             \
    do {                                                                                           \
        auto&& sm_try_ = (status);                                                                 \
        if (!sm_try_)                                                                              \
            return ::shadowmon::fail(sm_try_.error());                                             \
    } while (0)
