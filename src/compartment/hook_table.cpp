// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/compartment/hook_table.h"

#include <bit>
#include <cerrno>

namespace shadowmon {

namespace {

constexpr uint64_t free_entry = 0;

bool is_hook(const sm_hook& entry) {
    return entry.rip != free_entry && entry.rip != SM_HOOK_REMOVED;
}

bool is_reclaimed(const sm_hook& entry) { return entry.rip == SM_HOOK_REMOVED && entry.type == 0; }

void publish(sm_hook& entry, uint64_t rip) { __atomic_store_n(&entry.rip, rip, __ATOMIC_RELEASE); }

} // namespace

Result<HookTable> HookTable::make(std::span<sm_hook> entries, uint32_t capacity) {
    if (!std::has_single_bit(entries.size()) || capacity == 0 || capacity > SM_MAX_HOOKS ||
        capacity > entries.size() / 2)
        return failf("a hook table of {} entries for {} hooks: a power of two, at most half of it "
                     "taken, is possible",
                     entries.size(), capacity);
    HookTable table(entries, capacity);
    for (const sm_hook& entry : entries) {
        table.size_ += is_hook(entry);
        table.removed_ += entry.rip == SM_HOOK_REMOVED && !is_reclaimed(entry);
    }
    if (table.size_ > capacity)
        return failf("the hook table holds {} hooks, more than {}", table.size_, capacity);
    return table;
}

size_t HookTable::start_of(uint64_t rip) const {
    return sm_hook_index(rip, static_cast<uint32_t>(entries_.size()) - 1);
}

sm_hook* HookTable::lookup(uint64_t rip) const {
    if (rip == free_entry || rip == SM_HOOK_REMOVED)
        return nullptr;
    size_t index = start_of(rip);
    for (size_t left = entries_.size(); left != 0; left--, index = next(index)) {
        if (entries_[index].rip == rip)
            return &entries_[index];
        if (entries_[index].rip == free_entry)
            return nullptr;
    }
    return nullptr;
}

const sm_hook* HookTable::find(uint64_t rip) const { return lookup(rip); }

Status HookTable::insert(const sm_hook& hook) {
    if (!is_hook(hook))
        return failf("{:#x} is no address of a hook", hook.rip);
    if (hook.type == 0)
        return failf("the hook for {:#x} makes no events", hook.rip);
    if (hook.id >= capacity_)
        return failf("hook id {} is not below {}", hook.id, capacity_);
    if (lookup(hook.rip))
        return failf("the table has a hook for {:#x} already", hook.rip);
    if (size_ == capacity_)
        return failf("the table is full: {} hooks", size_);
    // Enough entries stay free or can be used again for every probe to be short.
    if (size_ + removed_ >= entries_.size() - entries_.size() / 4)
        return fail(
            Error(fmt::format("{} removed hooks are still in the table", removed_), EAGAIN));
    size_t index = start_of(hook.rip);
    while (entries_[index].rip != free_entry && !is_reclaimed(entries_[index]))
        index = next(index);
    sm_hook& entry = entries_[index];
    entry.id = hook.id;
    entry.type = hook.type;
    entry.flags = hook.flags;
    entry.resume_if1 = hook.resume_if1;
    entry.resume_if0 = hook.resume_if0;
    publish(entry, hook.rip);
    size_++;
    return {};
}

bool HookTable::remove(uint64_t rip) {
    sm_hook* entry = lookup(rip);
    if (!entry)
        return false;
    publish(*entry, SM_HOOK_REMOVED);
    size_--;
    removed_++;
    return true;
}

void HookTable::reclaim() {
    for (sm_hook& entry : entries_)
        if (entry.rip == SM_HOOK_REMOVED)
            entry.type = entry.flags = 0;
    removed_ = 0;
    // Where a probe ends behind a removed entry, it may as well end there. From the end to the
    // start, and the first entries once more, because the table is a ring.
    for (size_t i = 2 * entries_.size(); i-- != 0;) {
        sm_hook& entry = entries_[i & (entries_.size() - 1)];
        if (entry.rip == SM_HOOK_REMOVED && entries_[next(i)].rip == free_entry)
            publish(entry, free_entry);
    }
}

} // namespace shadowmon
