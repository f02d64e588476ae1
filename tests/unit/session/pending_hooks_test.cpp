// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of them when modules come and go: module_hooks_test.cpp.
#include "src/session/pending_hooks.h"

#include <gtest/gtest.h>

namespace shadowmon::test {
namespace {

using Ids = std::vector<uint32_t>;

TEST(PendingHooks, AreKeptOnceEach) {
    PendingHooks pending(100);
    EXPECT_EQ(pending.add({"brd:a"}), 100u);
    EXPECT_EQ(pending.add({"brd:*"}), 101u);
    EXPECT_EQ(pending.add({"brd:a"}), 100u);
    EXPECT_EQ(pending.size(), 2u);
    pending.remove(100);
    EXPECT_FALSE(pending.has(100));
    EXPECT_EQ(pending.add({"brd:a"}), 102u) << "an id is not given again";
    EXPECT_EQ(pending.hooks().at(101).module(), "brd");
}

TEST(PendingHooks, AreSelectedAsOtherHooksAre) {
    PendingHooks pending(100);
    pending.add({"brd:a"});
    pending.add({"brd:b+0x2a"});
    pending.add({"loop:*"});
    EXPECT_EQ(pending.select("101"), Ids{101});
    EXPECT_EQ(pending.select("brd:a"), Ids{100});
    EXPECT_EQ(pending.select("brd:*"), (Ids{100, 101}));
    EXPECT_EQ(pending.select("loop:*"), Ids{102}) << "by its own name";
    EXPECT_EQ(pending.select("*"), (Ids{100, 101, 102}));
    EXPECT_TRUE(pending.select("brd").empty());
    EXPECT_TRUE(pending.select("1").empty());
}

TEST(PendingHooks, SayWhyTheyWait) {
    PendingHooks pending(0);
    uint32_t id = pending.add({"brd:a", 7, false});
    HookStatus status = pending.status(id);
    EXPECT_EQ(status.state, "pending");
    EXPECT_EQ(status.name, "brd:a");
    EXPECT_EQ(status.limit, 7u);
    EXPECT_EQ(status.address, 0u);
    EXPECT_EQ(status.note, "disabled");
    EXPECT_FALSE(pending.any_enabled());
    pending.add({"brd:a"});
    EXPECT_TRUE(pending.any_enabled()) << "asked for again";
    EXPECT_EQ(pending.list().at(0).note, "module brd is not loaded");
    pending.hooks().at(id).refusal = "no function";
    EXPECT_EQ(pending.list().at(0).note, "no function");
}

} // namespace
} // namespace shadowmon::test
