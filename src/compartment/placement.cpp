// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/placement.h"

#include "abi/layout.h"

#include <algorithm>
#include <sys/random.h>

namespace shadowmon {

namespace {

// VMMs put 64-bit device windows right above RAM; stay clear of the usual ones.
constexpr uint64_t clearance = uint64_t{4} << 30;
constexpr uint64_t low_end = uint64_t{1} << 32; // 32-bit device windows end here

} // namespace

Result<uint64_t> system_random() {
    uint64_t value;
    ssize_t got = ::getrandom(&value, sizeof(value), 0);
    if (got != static_cast<ssize_t>(sizeof(value)))
        return fail(Error::from_errno("draw a random number"));
    return value;
}

Result<Gpa> choose_region(const std::vector<RamRange>& occupied, unsigned phys_bits, uint32_t pages,
                          const RandomSource& random) {
    if (phys_bits < 32 || phys_bits > 52)
        return failf("the VM states {} physical-address bits, which cannot be", phys_bits);
    uint64_t end = uint64_t{1} << phys_bits;
    uint64_t size = uint64_t{pages} * SM_PAGE_SIZE;
    uint64_t floor = low_end;
    for (const RamRange& range : occupied)
        floor = std::max(floor, (range.start + range.size).value);
    floor = (floor + SM_PAGE_SIZE - 1) / SM_PAGE_SIZE * SM_PAGE_SIZE;
    if (floor >= end || end - floor < size)
        return failf("no room for {} pages between the VM's memory, which ends at {:#x}, and its "
                     "{} physical-address bits",
                     pages, floor, phys_bits);
    if (end - floor > 2 * clearance + size)
        floor += clearance;
    auto draw = random();
    if (!draw)
        return fail(draw.error());
    uint64_t choices = (end - floor - size) / SM_PAGE_SIZE + 1;
    return Gpa(floor + *draw % choices * SM_PAGE_SIZE);
}

} // namespace shadowmon
