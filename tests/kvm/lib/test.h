// SPDX-License-Identifier: GPL-2.0-or-later
/// Everything that a test of one behaviour includes. The test defines test_main(), which returns
/// when all is well; checks that fail and skips end the process.
#pragma once

#include "tests/kvm/lib/check.h"
#include "tests/kvm/lib/compartment.h"
#include "tests/kvm/lib/process.h"
#include "tests/kvm/lib/views.h"
#include "tests/kvm/lib/vm.h"

namespace shadowmon::kvmtest {
void test_main();

/// For a test that takes longer than others: the time from now on after which it counts as hung.
void set_time_limit(unsigned seconds);
} // namespace shadowmon::kvmtest
