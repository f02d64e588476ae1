// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/base/result.h"
#include "src/vm/views.h"

#include <chrono>
#include <optional>
#include <vector>

namespace shadowmon {

/// A claim of a slot that ended without the slot being released.
struct FreedSlot {
    uint32_t index;
    uint64_t claims; ///< of the slot so far, the one that was cut off included
};

/// Finds slots whose holder is gone, and frees them. A vCPU that the kernel takes out of
/// the shadow view in the middle of an event leaves its slot claimed for ever: nobody
/// else may use it, and once all are lost the guest waits at its hooks.
///
/// What the kernel reports of such a vCPU proves nothing about a slot: any guest code can
/// enter the shadow view with a stack pointer of its choice and be expelled at once. To
/// free a slot that somebody holds would put two vCPUs on one trusted stack. So a slot is
/// freed only when nobody can hold it: who claims a slot stays in the shadow view until
/// it releases it, and counts the claim in between. Therefore, if the slot is busy with
/// the same count at three instants, and every vCPU was seen in the main view between
/// the first two and again between the last two, its claim is nobody's:
///   - who holds it at the third instant claimed it after the second;
///   - so who held it at the second has released it since, and, having been seen in the
///     main view before that, claimed it after the first;
///   - so a whole claim lay between the first and the third, and would have been counted.
/// And a claim that is nobody's stays so: nobody will release it but this class.
///
/// The ring needs no repair. Its head moves only over whole records, by one store, and
/// what the writer remembers of the ring holds at every step. At most the event that was
/// cut off is missing, and a sequence number that it had used up is told as missing.
///
/// One thread uses it; the slots must outlive it.
class StraySlots {
  public:
    using Time = std::chrono::nanoseconds; ///< monotonic

    /// A claim takes microseconds, unless the host does not run the vCPU or it waits for
    /// room: one that has lasted so long is looked into. The look makes every vCPU exit,
    /// so looks are as far apart, whatever the guest does.
    static constexpr std::chrono::milliseconds patience{200};

    explicit StraySlots(const std::vector<sm_slot*>& slots);

    /// Frees what is stray; cheap as long as no slot is busy for long. Call it often.
    Result<std::vector<FreedSlot>> free_strays(const Views& views, Time now);

    uint64_t freed() const { return freed_; } ///< in all

  private:
    struct Claim {
        sm_slot* slot;
        bool busy = false;
        uint64_t claims = 0;
        Time since{};
    };

    bool note(Claim& claim, Time now);
    static bool lasts(const Claim& claim);
    static Result<bool> all_seen_in_main(const Views& views, uint32_t vcpus);

    std::vector<Claim> claims_; // one per slot
    std::optional<Time> last_look_;
    uint64_t freed_ = 0;
};

} // namespace shadowmon
