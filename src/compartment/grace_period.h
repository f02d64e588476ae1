// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"

#include <cstdint>
#include <span>
#include <vector>

namespace shadowmon {

/// From its making until nobody is left in the event handler who was in it then. What was taken
/// out of the hook table before may be written over after it. Says nothing of the gate page and of
/// displaced code, for which vCPUs have to be looked at.
class GracePeriod {
  public:
    explicit GracePeriod(std::span<const sm_slot* const> slots);

    /// Looks at the slots that were held and have not been let go since. Never waits.
    bool over();

  private:
    struct Held {
        const sm_slot* slot;
        uint64_t claims;
    };
    std::vector<Held> held_;
};

} // namespace shadowmon
