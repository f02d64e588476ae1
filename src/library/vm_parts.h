// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/vm/views.h"
#include "src/vm/vm_process.h"

#include <memory>
#include <shadowmonitor/vm.h>

namespace shadowmon {

struct Vm::Parts {
    VmProcess process;
    std::unique_ptr<Views> views; ///< a Monitor takes them
};

} // namespace shadowmon
