// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/kvm_views.h"

#include <string>

namespace shadowmon {

/// What an event of the views fd means, in one sentence for the user. Names no address of
/// the hidden region: a log may end up where the guest can read it.
std::string describe(const kvm_views_event& event);

} // namespace shadowmon
