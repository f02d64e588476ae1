// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/stray_slots.h"

#include "src/events/shared_memory.h"

#include <utility>

namespace shadowmon {

namespace {

/// A vCPU that is busy with events is met in the shadow view now and then.
constexpr unsigned sightings = 4;

} // namespace

StraySlots::StraySlots(const std::vector<sm_slot*>& slots) {
    for (sm_slot* slot : slots)
        claims_.push_back({.slot = slot});
}

/// True if the slot is in one and the same claim for too long.
bool StraySlots::note(Claim& claim, Time now) {
    const bool was_busy = std::exchange(claim.busy, load_acquire(&claim.slot->busy) != 0);
    if (!claim.busy)
        return false;
    const uint64_t claims = load_acquire(&claim.slot->claims);
    if (!was_busy || claims != claim.claims) {
        claim.claims = claims;
        claim.since = now;
    }
    return now - claim.since >= patience;
}

bool StraySlots::lasts(const Claim& claim) {
    return load_acquire(&claim.slot->busy) != 0 &&
           load_acquire(&claim.slot->claims) == claim.claims;
}

Result<bool> StraySlots::all_seen_in_main(const Views& views, uint32_t vcpus) {
    for (uint32_t i = 0; i < vcpus; i++) {
        bool seen = false;
        for (unsigned n = 0; !seen && n < sightings; n++) {
            auto vcpu = views.vcpu(i);
            if (!vcpu)
                return fail(vcpu.error());
            seen = vcpu->view == KVM_VIEWS_MAIN;
        }
        if (!seen)
            return false;
    }
    return true;
}

Result<std::vector<FreedSlot>> StraySlots::free_strays(const Views& views, Time now) {
    std::vector<Claim*> suspects;
    for (Claim& claim : claims_)
        if (note(claim, now))
            suspects.push_back(&claim);
    if (suspects.empty() || (last_look_ && now - *last_look_ < patience))
        return std::vector<FreedSlot>{};
    last_look_ = now;

    auto before = views.info();
    if (!before)
        return fail(before.error());
    for (int round = 0; round < 2; round++) {
        auto seen = all_seen_in_main(views, before->nr_vcpus);
        if (!seen)
            return fail(seen.error());
        if (!*seen)
            return std::vector<FreedSlot>{};
        std::erase_if(suspects, [](const Claim* claim) { return !lasts(*claim); });
        if (suspects.empty())
            return std::vector<FreedSlot>{};
    }
    // A vCPU that was added meanwhile has not been looked at.
    auto after = views.info();
    if (!after)
        return fail(after.error());
    if (after->nr_vcpus != before->nr_vcpus)
        return std::vector<FreedSlot>{};

    std::vector<FreedSlot> freed;
    for (Claim* claim : suspects) {
        freed.push_back({static_cast<uint32_t>(claim - claims_.data()), claim->claims});
        claim->busy = false;
        store_release(&claim->slot->busy, 0u);
    }
    freed_ += freed.size();
    return freed;
}

} // namespace shadowmon
