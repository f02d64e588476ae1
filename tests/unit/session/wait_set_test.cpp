// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/wait_set.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <sys/eventfd.h>
#include <unistd.h>

namespace shadowmon {
namespace {

using std::chrono::milliseconds;

class Waiting : public testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(set_); }
    bool readable(int patience_ms) const {
        pollfd one{set_->fd(), POLLIN, 0};
        return ::poll(&one, 1, patience_ms) == 1;
    }
    static UniqueFd counter() { return UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
    static void ring(const UniqueFd& fd) {
        uint64_t one = 1;
        ASSERT_EQ(write(fd.get(), &one, sizeof(one)), 8);
    }

    Result<WaitSet> set_ = WaitSet::make();
};

TEST_F(Waiting, TimerRunsOutAndIsSetAnew) {
    EXPECT_FALSE(readable(0)) << "no timer runs yet";
    ASSERT_TRUE(set_->wake_in(milliseconds(0)));
    EXPECT_TRUE(readable(5000));
    EXPECT_TRUE(readable(0)) << "until it is set anew";
    ASSERT_TRUE(set_->wake_in(std::chrono::hours(1)));
    EXPECT_FALSE(readable(0));
}

TEST_F(Waiting, DescriptorsCount) {
    UniqueFd a = counter(), b = counter();
    std::vector<pollfd> both = {{a.get(), POLLIN, 0}, {b.get(), POLLIN, 0}};
    ASSERT_TRUE(set_->watch(both));
    EXPECT_FALSE(readable(0));
    ring(b);
    EXPECT_TRUE(readable(0));
    ASSERT_TRUE(set_->watch(std::span(both).first(1)));
    EXPECT_FALSE(readable(0)) << "b is watched no more";
    ring(a);
    EXPECT_TRUE(readable(0));
}

TEST_F(Waiting, WhatIsAskedForMayChange) {
    UniqueFd a = counter();
    std::vector<pollfd> one = {{a.get(), POLLIN, 0}};
    ASSERT_TRUE(set_->watch(one));
    EXPECT_FALSE(readable(0));
    one[0].events = POLLIN | POLLOUT;
    ASSERT_TRUE(set_->watch(one));
    EXPECT_TRUE(readable(0));
}

TEST_F(Waiting, ANumberMayComeAgain) {
    UniqueFd a = counter();
    int number = a.get();
    std::vector<pollfd> one = {{number, POLLIN, 0}};
    ASSERT_TRUE(set_->watch(one));
    a = UniqueFd();
    UniqueFd b = counter();
    ASSERT_EQ(b.get(), number);
    ASSERT_TRUE(set_->watch(one));
    ring(b);
    EXPECT_TRUE(readable(0));
}

TEST_F(Waiting, AClosedDescriptorIsAnError) {
    const pollfd none[] = {{-1, POLLIN, 0}};
    auto status = set_->watch(none);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code(), EBADF);
}

} // namespace
} // namespace shadowmon
