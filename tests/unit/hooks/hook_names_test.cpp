// SPDX-License-Identifier: GPL-2.0-or-later
// What users' words mean, in a small kernel made for it.
#include "src/hooks/hook_names.h"

#include "tests/unit/hooks/made_kernel.h"

#include <gtest/gtest.h>

#include <optional>

namespace shadowmon {
namespace {

constexpr const char* thunk = "its_return_thunk";

/// nop5; push rbp; mov rbp, rsp; xor eax, eax; pop rbp; ret
constexpr std::initializer_list<int> ordinary = {0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55, 0x48,
                                                 0x89, 0xe5, 0x31, 0xc0, 0x5d, 0xc3};

class HookNamesTest : public testing::Test {
  protected:
    HookNamesTest() {
        read_ = kernel_.add("vfs_read", ordinary);
        write_ = kernel_.add("vfs_write", ordinary);
        // endbr64; nop5; mov edi, 1; ret
        marked_ = kernel_.add(
            "marked", {0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0, 0, 0xbf, 1, 0, 0, 0, 0xc3});
        // hlt, which waits; mov rax, rcx; ret
        survive_ = kernel_.add("arguments_survive", {0xf4, 0x48, 0x89, 0xc8, 0xc3});
        // hlt; ud2
        kernel_.add("arguments_nowhere", {0xf4, 0x0f, 0x0b});
        // test edi, edi; je +4; xor eax, eax; ret; int3; xor eax, eax; ret
        two_returns_ = kernel_.add("two_returns",
                                   {0x85, 0xff, 0x74, 4, 0x31, 0xc0, 0xc3, 0xcc, 0x31, 0xc0, 0xc3});
        // jmp vfs_read
        Gva tail = kernel_.add("tail_call", {0xe9, 0x9b, 0xff, 0xff, 0xff});
        EXPECT_EQ(tail + 5 - 0x65, read_);
        kernel_.add("static_one", ordinary);
        kernel_.add("static_one", ordinary);
        kernel_.add_symbol("jiffies", Gva(0xffffffff82000000), 'D');
        kernel_.add_symbol("start_kernel", Gva(0xffffffff83000000), 'T');
    }
    static Result<NamedPlaces> find_in(const test::MadeKernel& kernel,
                                       const std::vector<std::string>& words, size_t max = 100) {
        KernelInfo info = kernel.info();
        HookPlanner planner = kernel.planner(info);
        return HookNames(planner, info.symbols).find(words, max);
    }
    Result<NamedPlaces> find(const std::vector<std::string>& words, size_t max = 100) {
        return find_in(kernel_, words, max);
    }
    std::string error(const std::vector<std::string>& words, size_t max = 100) {
        auto found = find(words, max);
        return found ? "found" : found.error().message();
    }
    Gva only(const std::string& word) {
        auto found = find({word});
        EXPECT_TRUE(found) << found.error().message();
        EXPECT_EQ(found ? found->places.size() : 0, 1u) << word;
        return found && !found->places.empty() ? found->places[0].displaced.address() : Gva();
    }

    test::MadeKernel kernel_;
    Gva read_, write_, marked_, survive_, two_returns_;
};

#define EXPECT_SAYS(words, text) EXPECT_NE(error words.find(text), std::string::npos) << error words

TEST_F(HookNamesTest, FunctionsBeginBehindWhatTheKernelKeepsThere) {
    EXPECT_EQ(only("vfs_read"), read_ + 5);
    EXPECT_EQ(only("vfs_write"), write_ + 5);
    // ENDBR64 can be displaced: it marks a target, and does nothing.
    EXPECT_EQ(only("marked"), marked_);
}

TEST_F(HookNamesTest, ByCallWhereFtraceHasItsNop) {
    kernel_.patched(read_, Refusal::ftrace);
    kernel_.patched(marked_ + 4, Refusal::ftrace);
    kernel_.patched(write_, Refusal::static_key); // of the same shape
    KernelInfo info = kernel_.info();
    HookPlanner planner = kernel_.planner(info, {.call_gate = true});
    auto place = [&](HookNames::Calls calls, const char* word) {
        auto found = HookNames(planner, info.symbols, calls).find({word}, 1);
        EXPECT_TRUE(found) << found.error().message();
        const Displaced& displaced = found->places.at(0).displaced;
        EXPECT_TRUE(found->notes.empty());
        return std::pair(displaced.address(), displaced.gate);
    };
    using Place = std::pair<Gva, Gate>;
    constexpr auto wanted = HookNames::Calls::wanted, avoided = HookNames::Calls::avoided;
    EXPECT_EQ(place(wanted, "vfs_read"), Place(read_, Gate::call));
    EXPECT_EQ(place(wanted, "marked"), Place(marked_ + 4, Gate::call));
    EXPECT_EQ(place(wanted, "vfs_write"), Place(write_ + 5, Gate::interrupt));
    EXPECT_EQ(place(avoided, "vfs_read"), Place(read_ + 5, Gate::interrupt));
    EXPECT_EQ(place(avoided, "marked"), Place(marked_, Gate::interrupt));
}

TEST_F(HookNamesTest, BehindTheCallOfFtraceWhileItTraces) {
    test::MadeKernel kernel;
    // call; push rbp; mov rbp, rsp; ret
    Gva traced = kernel.add("traced", {0xe8, 0, 1, 0, 0, 0x55, 0x48, 0x89, 0xe5, 0xc3});
    kernel.patched(traced, Refusal::ftrace);
    // The same call, the function's own.
    kernel.add("caller", {0xe8, 0, 1, 0, 0, 0x55, 0x48, 0x89, 0xe5, 0xc3});
    auto found = find_in(kernel, {"traced"});
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_EQ(found->places[0].displaced.address(), traced + 5);
    EXPECT_TRUE(found->notes.empty()) << found->notes[0];
    found = find_in(kernel, {"caller"});
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_EQ(found->places[0].displaced.address(), traced + 16) << "it can be hooked itself";
}

TEST_F(HookNamesTest, WhatCannotBeHookedIsPassedOverAndTold) {
    auto found = find({"arguments_survive"});
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_EQ(found->places[0].displaced.address(), survive_ + 1);
    ASSERT_EQ(found->notes.size(), 1u);
    EXPECT_NE(found->notes[0].find("hooked at arguments_survive+0x1, because arguments_survive "
                                   "cannot be"),
              std::string::npos)
        << found->notes[0];
    EXPECT_SAYS(({"arguments_nowhere"}), "arguments_nowhere: no instruction at its beginning");
}

TEST_F(HookNamesTest, OffsetsAndAddresses) {
    EXPECT_EQ(only("vfs_read+0x9"), read_ + 9);
    EXPECT_EQ(only("vfs_read+9"), read_ + 9);
    EXPECT_EQ(only("0xffffffff81000009"), read_ + 9);
    auto found = find({"0xffffffff81000009"});
    EXPECT_EQ(found->places[0].name, "vfs_read+0x9");
    EXPECT_SAYS(({"vfs_read+7"}), "it is inside an instruction");
    EXPECT_SAYS(({"vfs_read+32"}), "the function is 0x10 bytes long");
    EXPECT_SAYS(({"vfs_read+"}), "a number is needed");
    EXPECT_SAYS(({"vfs_read+x"}), "a number is needed");
    EXPECT_SAYS(({"vfs_read+99999999999999999999"}), "a number is needed");
    EXPECT_SAYS(({"0xnonsense"}), "is no address");
    EXPECT_SAYS(({"0x1000"}), "cannot be hooked");
}

TEST_F(HookNamesTest, Returns) {
    auto found = find({"two_returns%return"});
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_EQ(found->places.size(), 2u);
    EXPECT_EQ(found->places[0].displaced.address(), two_returns_ + 6);
    EXPECT_EQ(found->places[1].displaced.address(), two_returns_ + 10);
    EXPECT_EQ(found->places[1].name, "two_returns%return");
    EXPECT_SAYS(({"tail_call%return"}), "other functions, which it jumps to, return for it");
    EXPECT_SAYS(({"vfs_read+9%return"}), "%return goes with the name of a function");
    EXPECT_SAYS(({"%return"}), "the guest's kernel has no function");
}

TEST_F(HookNamesTest, ReturnsByTheThunk) {
    test::MadeKernel kernel;
    // xor eax, eax; jmp its_return_thunk
    Gva by_thunk = kernel.add("by_thunk", {0x31, 0xc0, 0xe9, 0x09, 0x00, 0x00, 0x00});
    kernel.add(thunk, {0xc3, 0xcc});
    auto found = find_in(kernel, {"by_thunk%return"});
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_EQ(found->places.size(), 1u);
    EXPECT_EQ(found->places[0].displaced.address(), by_thunk + 2);
    EXPECT_TRUE(found->notes.empty());
}

TEST_F(HookNamesTest, Patterns) {
    auto found = find({"vfs_*", "vfs_read"});
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_EQ(found->places.size(), 2u) << "none twice";
    EXPECT_EQ(found->places[0].name, "vfs_read");
    EXPECT_EQ(found->places[1].name, "vfs_write");
    EXPECT_TRUE(found->notes.empty());

    found = find({"arguments_*"});
    ASSERT_TRUE(found);
    EXPECT_EQ(found->places.size(), 1u);
    ASSERT_EQ(found->notes.size(), 1u);
    EXPECT_NE(found->notes[0].find("arguments_*: 1 of 2 functions cannot be hooked; 1: "),
              std::string::npos)
        << found->notes[0];
    EXPECT_SAYS(({"zz*"}), "no function of the guest's kernel is named like \"zz*\"");
    EXPECT_SAYS(({"*"}, 3), "there is room for 3");
    EXPECT_EQ(find({"vfs_*%return"})->places.size(), 2u);
}

TEST_F(HookNamesTest, WordsThatMeanNothing) {
    EXPECT_SAYS(({"vfs_raed"}), "has no function \"vfs_raed\"; similar: vfs_read");
    EXPECT_SAYS(({"read"}), "similar: vfs_read");
    EXPECT_SAYS(({"quite_another_thing"}), "has no function");
    EXPECT_SAYS(({"static_one"}), "is the name of 2 functions; name one by its address: 0x");
    EXPECT_SAYS(({"jiffies"}), "is no function of the kernel's text (0xffffffff82000000 is data)");
    EXPECT_SAYS(({"start_kernel"}), "is code for booting");
    EXPECT_SAYS(({""}), "a hook needs a name");
    EXPECT_SAYS(({"vfs_read", "nothing_like_it"}), "has no function");
}

} // namespace
} // namespace shadowmon
