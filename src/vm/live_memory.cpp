// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/vm/live_memory.h"

#include <algorithm>

namespace shadowmon {

std::vector<RamRange> join_ranges(std::vector<RamRange> ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const RamRange& a, const RamRange& b) { return a.start < b.start; });
    std::vector<RamRange> joined;
    for (const RamRange& range : ranges) {
        if (range.size == 0)
            continue;
        if (!joined.empty() && joined.back().start + joined.back().size >= range.start) {
            uint64_t end = std::max((joined.back().start + joined.back().size).value,
                                    (range.start + range.size).value);
            joined.back().size = end - joined.back().start.value;
        } else {
            joined.push_back(range);
        }
    }
    return joined;
}

Result<LiveMemory> LiveMemory::of(const Views& views) {
    auto slots = views.slots();
    if (!slots)
        return fail(slots.error());
    std::vector<RamRange> ram;
    std::vector<RamRange> occupied;
    for (const kvm_views_slot& slot : *slots) {
        RamRange range{Gpa(slot.gpa), slot.size};
        occupied.push_back(range);
        if (!(slot.flags & KVM_VIEWS_SLOT_READONLY))
            ram.push_back(range);
    }
    if (ram.empty())
        return failf("the VM has no memory yet: its VMM is still setting it up");
    return LiveMemory(views, join_ranges(std::move(ram)), join_ranges(std::move(occupied)));
}

Status LiveMemory::read(Gpa gpa, std::span<std::byte> out) const {
    return views_->read_mem(gpa, out);
}

} // namespace shadowmon
