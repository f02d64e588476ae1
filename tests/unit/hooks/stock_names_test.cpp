// SPDX-License-Identifier: GPL-2.0-or-later
// Names on the kernels that Debian ships.
#include "src/hooks/hook_names.h"

#include "src/hooks/movable.h"
#include "tests/unit/hooks/stock_kernel.h"

#include <array>

namespace shadowmon::test {
namespace {

class StockNames : public StockKernelHooks {
  protected:
    Result<NamedPlaces> find(const std::vector<std::string>& words, size_t max = 100'000) {
        return HookNames(*planner_, kernel_->symbols).find(words, max);
    }
};

TEST_F(StockNames, WhatPeopleHook) {
    for (const char* word : {"vfs_read", "vfs_write", "do_exit", "ksys_read", "tcp_sendmsg",
                             "do_sys_openat2", "kmem_cache_alloc", "wake_up_new_task"}) {
        if (!kernel_->symbols.find(word))
            continue;
        auto found = find({word});
        ASSERT_TRUE(found) << found.error().message();
        ASSERT_EQ(found->places.size(), 1u);
        Gva at = found->places[0].displaced.address();
        EXPECT_LT(at - symbol(word), 16u) << word;
        EXPECT_EQ(found->places[0].name, word);
    }
}

/// A breakpoint stands in front of what is half NOP, half CALL.
TEST_F(StockNames, WhatFtraceIsJustChanging) {
    HookPolicy policy;
    policy.call_gate = true;
    HookPlanner calls(*read_kernel_code(*kernel_, *memory_), policy, &kernel_->symbols);
    auto before = HookNames(calls, kernel_->symbols).find({"vfs_read"}, 1);
    ASSERT_TRUE(before) << before.error().message();
    const Displaced& nop = before->places.at(0).displaced;
    ASSERT_EQ(nop.gate, Gate::call);
    auto behind =
        HookNames(calls, kernel_->symbols, HookNames::Calls::avoided).find({"vfs_read"}, 1);
    ASSERT_TRUE(behind) << behind.error().message();

    const std::array changing{std::byte{0xcc}, std::byte{0x12}, std::byte{0x34}, std::byte{0},
                              std::byte{0}};
    memory_->write(*kernel_->to_gpa(nop.address()), changing);
    HookPlanner now(*read_kernel_code(*kernel_, *memory_), policy, &kernel_->symbols);
    auto same = HookNames(now, kernel_->symbols).find({"vfs_read"}, 1);
    ASSERT_TRUE(same) << same.error().message();
    EXPECT_EQ(same->places.at(0).displaced.bytes, nop.bytes) << "what a hook expects to find";
    auto still = HookNames(now, kernel_->symbols, HookNames::Calls::avoided).find({"vfs_read"}, 1);
    ASSERT_TRUE(still) << still.error().message();
    EXPECT_EQ(still->places.at(0).displaced.address(), behind->places.at(0).displaced.address());
}

TEST_F(StockNames, ReturnsOfWhatPeopleHook) {
    for (const char* word : {"vfs_read", "vfs_write", "do_sys_openat2"}) {
        auto found = find({std::string(word) + "%return"});
        ASSERT_TRUE(found) << found.error().message();
        EXPECT_FALSE(found->places.empty());
        for (const NamedPlace& place : found->places) {
            Flow flow = flow_of(place.displaced.instructions.back());
            EXPECT_TRUE(flow == Flow::ret || flow == Flow::jump)
                << planner_->where(place.displaced.address());
        }
    }
}

TEST_F(StockNames, HalfOfAKernelByPattern) {
    auto found = find({"nf_*", "ext4_*", "tcp_*", "vfs_*"});
    if (!found)
        found = find({"tcp_*", "vfs_*"});
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_GT(found->places.size(), 300u);
    for (const std::string& note : found->notes)
        std::printf("%s\n", note.c_str());
    auto all = find({"*"});
    ASSERT_TRUE(all) << all.error().message();
    EXPECT_GT(all->places.size(), 30'000u);
    std::printf("%zu functions; %s\n", all->places.size(), all->notes[0].c_str());
    EXPECT_FALSE(find({"*"}, 10'000));
}

TEST_F(StockNames, WordsThatMeanNothing) {
    auto wrong = find({"vfs_raed"});
    ASSERT_FALSE(wrong);
    EXPECT_NE(wrong.error().message().find("vfs_read"), std::string::npos);
    EXPECT_FALSE(find({"jiffies"}));
    EXPECT_FALSE(find({"start_kernel"}));
    EXPECT_FALSE(find({"vfs_read+1"}));
}

} // namespace
} // namespace shadowmon::test
