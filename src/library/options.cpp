// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/options.h>

#include "abi/layout.h"
#include "src/base/result.h"
#include "src/compartment/layout.h"
#include "src/guest/symbol_file.h"

#include <bit>

namespace shadowmon {

static_assert(Options::min_ring_size == SM_PAGE_SIZE);
static_assert(Options::max_ring_size == SM_RING_MAX_DATA);
static_assert(Options::default_hook_capacity == shadowmon::default_hook_capacity);

namespace {

Result<Symbols> shared(Result<SymbolFile> file) {
    if (!file)
        return fail(file.error());
    return std::make_shared<const SymbolFile>(std::move(*file));
}

} // namespace

Result<Symbols> read_system_map(const std::string& path) {
    return shared(SymbolFile::read_system_map(path));
}

Result<Symbols> read_vmlinux(const std::string& path) {
    return shared(SymbolFile::read_vmlinux(path));
}

Status Options::check() const {
    if (!std::has_single_bit(ring_size) || ring_size < min_ring_size || ring_size > max_ring_size)
        return failf("a ring of {} bytes; a power of two from 4K to 4M is possible", ring_size);
    if (hook_limit && *hook_limit == 0)
        return failf("a hook limit of 0 events per second; leave it out for no limit");
    return {};
}

} // namespace shadowmon
