/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "payload/hook_table.h"

#include "tests/unit/payload/fake_machine.h"

#include <rapidcheck/gtest.h>

#include <set>

namespace shadowmon::payload::test {
namespace {

TEST(HookTable, EmptyTableHasNothing) {
    FakeMachine m;
    EXPECT_EQ(find_hook(m, 0xffffffff81000002), nullptr);
    EXPECT_EQ(find_hook(m, 0)->type, 0) << "0 marks an entry that is free";
    for (sm_hook& hook : m.hooks_)
        hook.rip = SM_HOOK_REMOVED;
    EXPECT_EQ(find_hook(m, SM_HOOK_REMOVED)->type, 0) << "1 marks one that was taken out";
    EXPECT_EQ(find_hook(m, 0xffffffff81000002), nullptr);
    EXPECT_EQ(find_hook(m, ~u64{0}), nullptr);
}

TEST(HookTable, TableOfOneEntry) {
    FakeMachine m;
    m.config_.hook_mask = 0;
    m.hooks_.resize(1);
    EXPECT_EQ(find_hook(m, 5), nullptr);
    m.add_hook(0xffffffff81000002, 1, SM_EVENT_SWITCH);
    EXPECT_EQ(find_hook(m, 0xffffffff81000002), &m.hooks_[0]);
    EXPECT_EQ(find_hook(m, 0xffffffff81000003), nullptr);
}

TEST(HookTable, FullTableEndsASearch) {
    FakeMachine m;
    for (u32 i = 0; i < 16; i++)
        m.add_hook(0xffffffff81000002 + 64 * i, i, SM_EVENT_SWITCH);
    for (u32 i = 0; i < 16; i++) {
        const sm_hook* hook = find_hook(m, 0xffffffff81000002 + 64 * i);
        ASSERT_NE(hook, nullptr);
        EXPECT_EQ(hook->id, i);
    }
    EXPECT_EQ(find_hook(m, 0xffffffff81000000), nullptr);
    EXPECT_EQ(find_hook(m, 0), nullptr);
}

TEST(HookTable, ProbeGoesPastARemovedHook) {
    FakeMachine m;
    for (u32 i = 0; i < 12; i++)
        m.add_hook(0xffffffff81000002 + 64 * i, i, SM_EVENT_SWITCH);
    for (u32 gone = 0; gone < 12; gone += 2)
        const_cast<sm_hook*>(find_hook(m, 0xffffffff81000002 + 64 * gone))->rip = SM_HOOK_REMOVED;
    for (u32 i = 0; i < 12; i++) {
        const sm_hook* hook = find_hook(m, 0xffffffff81000002 + 64 * i);
        EXPECT_EQ(hook ? hook->id : 99, i % 2 ? i : 99) << i;
    }
}

RC_GTEST_PROP(HookTable, FindsExactlyWhatIsThere, (std::set<u64> rips, std::set<u64> others)) {
    FakeMachine m;
    rips.erase(0);
    rips.erase(SM_HOOK_REMOVED);
    m.config_.hook_mask = 255;
    m.hooks_.resize(256);
    std::map<u64, u32> id;
    for (u64 rip : rips) {
        if (id.size() == 256)
            break;
        const auto n = static_cast<u32>(id.size());
        id[rip] = n;
        m.add_hook(rip, n, SM_EVENT_SWITCH);
    }
    others.insert(rips.begin(), rips.end());
    others.erase(0); /* as above: these are no hooks, which the handler sees */
    others.erase(SM_HOOK_REMOVED);
    for (u64 rip : others) {
        const sm_hook* hook = find_hook(m, rip);
        RC_ASSERT((hook != nullptr) == (id.count(rip) != 0));
        if (hook)
            RC_ASSERT(hook->id == id[rip]);
    }
}

} // namespace
} // namespace shadowmon::payload::test
