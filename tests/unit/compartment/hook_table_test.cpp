// SPDX-License-Identifier: GPL-2.0-or-later
// The hook table from both of its sides: what the host puts in and takes out, the payload's own
// search finds, also while it changes.
#include "src/compartment/hook_table.h"

#include "payload/hook_table.h"
#include "src/compartment/grace_period.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace shadowmon {
namespace {

/// As much of the payload's machine as its search needs.
struct Reader {
    explicit Reader(std::span<const sm_hook> entries) : entries(entries) {
        config_.hook_mask = static_cast<uint32_t>(entries.size()) - 1;
        sm_derive(&config_);
    }
    const sm_config& config() const { return config_; }
    const sm_hook* hooks() const { return entries.data(); }
    const sm_hook* hook_at(uint64_t offset) const { return payload::at_offset(hooks(), offset); }
    uint64_t offset_of(const sm_hook* hook) const {
        return reinterpret_cast<uint64_t>(hook) - reinterpret_cast<uint64_t>(hooks());
    }
    /// Without the entries that are no hooks, which the handler tells by their type.
    const sm_hook* find(uint64_t rip) const {
        const sm_hook* hook = payload::find_hook(*this, rip);
        return rip > SM_HOOK_REMOVED ? hook : nullptr;
    }

    std::span<const sm_hook> entries;
    sm_config config_{};
};

sm_hook hook_at(uint64_t rip, uint32_t id = 0) {
    return {rip, id, SM_EVENT_HOOK, 0, rip + 1000, rip + 2000};
}

constexpr uint64_t text = 0xffffffff81000002;

struct Table {
    explicit Table(uint32_t capacity, size_t size) : entries(size) {
        auto made = HookTable::make(entries, capacity);
        EXPECT_TRUE(made) << made.error().message();
        table.emplace(*made);
    }
    std::vector<sm_hook> entries;
    std::optional<HookTable> table;
    Reader reader{entries};
};

TEST(HookTable, InsertsFindsRemoves) {
    Table t(8, 16);
    ASSERT_TRUE(t.table->insert(hook_at(text, 3)));
    const sm_hook* found = t.reader.find(text);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->id, 3u);
    EXPECT_EQ(found->type, SM_EVENT_HOOK);
    EXPECT_EQ(found->resume_if1, text + 1000);
    EXPECT_EQ(found->resume_if0, text + 2000);
    EXPECT_EQ(t.table->find(text), found);
    EXPECT_EQ(t.table->size(), 1u);
    EXPECT_TRUE(t.table->remove(text));
    EXPECT_FALSE(t.table->remove(text));
    EXPECT_EQ(t.reader.find(text), nullptr);
    EXPECT_EQ(t.table->find(text), nullptr);
    EXPECT_EQ(t.table->size(), 0u);
}

TEST(HookTable, RefusesWhatWouldSpoilIt) {
    Table t(2, 4);
    EXPECT_FALSE(t.table->insert(hook_at(0)));
    EXPECT_FALSE(t.table->insert(hook_at(SM_HOOK_REMOVED)));
    EXPECT_FALSE(t.table->remove(0));
    EXPECT_FALSE(t.table->remove(SM_HOOK_REMOVED));
    EXPECT_FALSE(t.table->insert(hook_at(text, 2))) << "an id beyond the counters";
    ASSERT_TRUE(t.table->insert(hook_at(text)));
    EXPECT_FALSE(t.table->insert(hook_at(text, 1))) << "twice";
    ASSERT_TRUE(t.table->insert(hook_at(text + 64)));
    EXPECT_FALSE(t.table->insert(hook_at(text + 128))) << "above its capacity";
    std::vector<sm_hook> entries(12);
    EXPECT_FALSE(HookTable::make(entries, 4));
    EXPECT_FALSE(HookTable::make(std::span(entries).first(8), 5));
    EXPECT_FALSE(HookTable::make(std::span(entries).first(8), 0));
}

TEST(HookTable, RemovedEntryKeepsItsContentUntilReclaimed) {
    Table t(8, 16);
    ASSERT_TRUE(t.table->insert(hook_at(text, 5)));
    const sm_hook* in_use = t.reader.find(text); // as a handler that has just found it
    t.table->remove(text);
    for (unsigned i = 0; i < 6; i++)
        ASSERT_TRUE(t.table->insert(hook_at(text + 64 * i, 1)));
    EXPECT_EQ(in_use->id, 5u);
    EXPECT_EQ(in_use->resume_if1, text + 1000);
}

TEST(HookTable, SaysWhenRemovedEntriesHaveToBeReclaimed) {
    Table t(8, 16);
    Status inserted;
    unsigned n = 0;
    for (; n < 100 && inserted; n++) {
        inserted = t.table->insert(hook_at(text + 64 * n));
        t.table->remove(text + 64 * n);
    }
    ASSERT_FALSE(inserted);
    EXPECT_EQ(inserted.error().code(), EAGAIN);
    EXPECT_EQ(t.table->removed(), 12u);
    t.table->reclaim();
    EXPECT_EQ(t.table->removed(), 0u);
    for (const sm_hook& entry : t.entries)
        EXPECT_EQ(entry.rip, 0u) << "nothing is behind them";
    EXPECT_TRUE(t.table->insert(hook_at(text)));
}

TEST(HookTable, TakesOverATable) {
    Table t(8, 16);
    for (unsigned i = 0; i < 6; i++)
        ASSERT_TRUE(t.table->insert(hook_at(text + 64 * i, i)));
    t.table->remove(text);
    auto again = HookTable::make(t.entries, 8);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->size(), 5u);
    EXPECT_EQ(again->removed(), 1u);
    EXPECT_NE(again->find(text + 64), nullptr);
}

// Against a map, with both searches asked for everything after every step.
TEST(HookTable, DoesWhatAMapDoes) {
    std::mt19937_64 random(7);
    Table t(64, 128);
    std::map<uint64_t, uint32_t> expected;
    size_t longest = 0;
    for (unsigned step = 0; step < 20000; step++) {
        const uint64_t rip = text + 5 * (random() % 150);
        const auto id = static_cast<uint32_t>(random() % 64);
        switch (random() % 8) {
        case 0:
            t.table->reclaim();
            break;
        case 1:
        case 2:
        case 3:
            ASSERT_EQ(t.table->remove(rip), expected.erase(rip) == 1);
            break;
        default:
            if (auto inserted = t.table->insert(hook_at(rip, id)))
                ASSERT_TRUE(expected.emplace(rip, id).second);
            else
                ASSERT_TRUE(expected.count(rip) || expected.size() == 64 ||
                            inserted.error().code() == EAGAIN)
                    << inserted.error().message();
        }
        ASSERT_EQ(t.table->size(), expected.size());
        for (unsigned i = 0; i < 150; i++) {
            const uint64_t at = text + 5 * i;
            auto want = expected.find(at);
            const sm_hook* found = t.reader.find(at);
            ASSERT_EQ(found != nullptr, want != expected.end());
            ASSERT_EQ(t.table->find(at), found);
            if (found) {
                ASSERT_EQ(found->id, want->second);
                const uint64_t start = sm_hook_index(at, 127);
                longest = std::max<size_t>(longest, (found - t.entries.data() - start) & 127);
            }
        }
        std::set<uint64_t> rips;
        for (const sm_hook& entry : t.entries)
            ASSERT_TRUE(entry.rip <= SM_HOOK_REMOVED || rips.insert(entry.rip).second) << "twice";
    }
    EXPECT_LT(longest, 64u);
}

/// A hook whose every field says which one of its rip it is.
sm_hook marked(uint64_t rip, uint32_t id, uint64_t generation) {
    sm_hook hook = hook_at(rip, id);
    hook.flags = static_cast<uint16_t>(generation);
    hook.resume_if1 = hook.resume_if0 = generation << 32 | id;
    return hook;
}

bool is_whole(const sm_hook& hook, uint32_t id) {
    return hook.id == id && hook.resume_if1 == hook.resume_if0 &&
           static_cast<uint32_t>(hook.resume_if1) == id &&
           hook.flags == static_cast<uint16_t>(hook.resume_if1 >> 32);
}

// One thread searches as a vCPU does, with a slot claimed for each search; this one inserts,
// removes and, after a grace period, reclaims. What stays is always found, and what is found is
// never half of one hook and half of another.
TEST(HookTable, ReaderSeesWholeEntriesWhileTheyChange) {
    constexpr uint32_t stable = 16, changing = 40;
    Table t(64, 128);
    auto rip_of = [](uint32_t id) { return text + 16 * id; };
    for (uint32_t id = 0; id < stable; id++)
        ASSERT_TRUE(t.table->insert(marked(rip_of(id), id, 1)));
    sm_slot slot{};
    std::atomic<bool> done{false};
    std::atomic<uint64_t> searches{0}, hits{0}, missed{0}, torn{0};
    std::thread reader([&] {
        std::mt19937_64 random(1);
        while (!done) {
            const auto id = static_cast<uint32_t>(random() % (stable + changing));
            __atomic_exchange_n(&slot.busy, 1, __ATOMIC_SEQ_CST);
            __atomic_store_n(&slot.claims, slot.claims + 1, __ATOMIC_RELEASE);
            const sm_hook* found = t.reader.find(rip_of(id));
            hits += found != nullptr;
            missed += !found && id < stable;
            torn += found && !is_whole(*found, id);
            __atomic_store_n(&slot.busy, 0, __ATOMIC_RELEASE);
            searches++;
        }
    });
    const sm_slot* slots[] = {&slot};
    std::mt19937_64 random(2);
    for (uint64_t step = 2; step < 200'000 || searches < 100'000; step++) {
        const auto id = stable + static_cast<uint32_t>(random() % changing);
        if (!t.table->remove(rip_of(id))) {
            auto inserted = t.table->insert(marked(rip_of(id), id, step));
            EXPECT_TRUE(inserted || inserted.error().code() == EAGAIN);
        }
        if (t.table->removed() > 20) {
            for (GracePeriod grace(slots); !grace.over();)
                std::this_thread::yield();
            t.table->reclaim();
        }
    }
    done = true;
    reader.join();
    EXPECT_EQ(missed, 0u);
    EXPECT_EQ(torn, 0u);
    EXPECT_GT(hits, 0u);
}

TEST(GracePeriod, EndsWhenWhoHeldASlotHasLetItGo) {
    sm_slot a{}, b{}, c{};
    const sm_slot* slots[] = {&a, &b, &c};
    EXPECT_TRUE(GracePeriod(slots).over());
    a.busy = b.busy = 1;
    a.claims = 7;
    GracePeriod grace(slots);
    EXPECT_FALSE(grace.over());
    c.busy = 1; // later than the beginning
    a.claims = 8;
    b.busy = 0;
    EXPECT_FALSE(grace.over()) << "may be the count of the claim that was there";
    b.busy = 1;
    a.claims = 9;
    EXPECT_TRUE(grace.over());
}

} // namespace
} // namespace shadowmon
