// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/kernel_code.h"

#include <algorithm>

namespace shadowmon {

Refusal KernelCode::kernel_use(Gva at) const {
    auto found =
        std::lower_bound(patched.begin(), patched.end(), at,
                         [](const PatchedSite& one, Gva wanted) { return one.at < wanted; });
    return found != patched.end() && found->at == at ? found->why : Refusal::none;
}

bool KernelCode::faults_are_repaired(Gva at) const {
    return std::binary_search(may_fault.begin(), may_fault.end(), at);
}

} // namespace shadowmon
