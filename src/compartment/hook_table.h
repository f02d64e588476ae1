// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/base/result.h"

#include <cstdint>
#include <span>

namespace shadowmon {

/// The payload's hook table, from the host's side: the only writer of entries that the payload
/// reads at the same time (abi/config.h says how both go about it). The memory is the region's
/// and has to outlive this. One thread uses it.
///
/// A hook has to be in the table before its bytes are in the guest. It may be removed when its
/// bytes are gone and every vCPU has been seen outside of the compartment since.
class HookTable {
  public:
    /// A table that may hold entries already. `capacity` is how many hooks it takes, at most half
    /// of its entries, whose number is a power of two.
    static Result<HookTable> make(std::span<sm_hook> entries, uint32_t capacity);

    /// Publishes a hook. Fails if there is one for this rip, if its id is not below the capacity,
    /// or if the table is full. EAGAIN: it is full of entries that wait for reclaim().
    Status insert(const sm_hook& hook);

    /// Takes a hook out; false if there is none. Its entry keeps its content until reclaim().
    bool remove(uint64_t rip);

    /// Lets insert() use the entries of removed hooks again. To be called only when no slot is
    /// held any more by who held it at the last remove() (GracePeriod).
    void reclaim();

    const sm_hook* find(uint64_t rip) const;

    uint32_t size() const { return size_; } ///< hooks
    uint32_t capacity() const { return capacity_; }
    uint32_t removed() const { return removed_; } ///< entries that wait for reclaim()

  private:
    HookTable(std::span<sm_hook> entries, uint32_t capacity)
        : entries_(entries), capacity_(capacity) {}

    size_t next(size_t index) const { return (index + 1) & (entries_.size() - 1); }
    size_t start_of(uint64_t rip) const;
    sm_hook* lookup(uint64_t rip) const;

    std::span<sm_hook> entries_;
    uint32_t capacity_;
    uint32_t size_ = 0;
    uint32_t removed_ = 0;
};

} // namespace shadowmon
