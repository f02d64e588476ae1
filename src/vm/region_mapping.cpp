// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/vm/region_mapping.h"

#include "abi/layout.h"

#include <sys/mman.h>

namespace shadowmon {

Result<RegionMapping> RegionMapping::map(int views_fd, uint32_t pages) {
    size_t size = size_t{pages} * SM_PAGE_SIZE;
    void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, views_fd, 0);
    if (base == MAP_FAILED)
        return fail(Error::from_errno(fmt::format("map the hidden region of {} pages", pages)));
    return RegionMapping({static_cast<std::byte*>(base), size});
}

RegionMapping::~RegionMapping() {
    if (!bytes_.empty())
        ::munmap(bytes_.data(), bytes_.size());
}

} // namespace shadowmon
