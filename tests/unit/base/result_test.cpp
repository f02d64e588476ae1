// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/base/result.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

namespace shadowmon {
namespace {

Result<int> half(int n) {
    if (n % 2 != 0)
        return failf("{} is odd", n);
    return n / 2;
}

Result<int> quarter(int n) {
    const Result<int> first = half(n);
    SM_TRY(first);
    return half(*first);
}

Status is_even(int n) {
    SM_TRY(half(n));
    return {};
}

TEST(Result, TryPassesTheErrorUpUnchanged) {
    EXPECT_EQ(*quarter(8), 2);
    const Result<int> failed = quarter(6);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().message(), "3 is odd");
    EXPECT_EQ(failed.error().code(), 0);
}

TEST(Result, TryTakesAStatusFromATemporary) {
    EXPECT_TRUE(is_even(4));
    EXPECT_EQ(is_even(5).error().message(), "5 is odd");
}

TEST(Result, HoldsWhatCannotBeCopied) {
    Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
    EXPECT_EQ(**result, 7);
}

TEST(Error, KeepsTheErrnoAndSaysItsText) {
    const Error error = Error::from_errno("cannot open /dev/kvm", ENOENT);
    EXPECT_EQ(error.code(), ENOENT);
    EXPECT_EQ(error.message(), "cannot open /dev/kvm: No such file or directory");
}

TEST(Error, TakesErrnoByDefault) {
    errno = EACCES;
    EXPECT_EQ(Error::from_errno("step").code(), EACCES);
}

TEST(Error, InPutsTheStepInFrontAndKeepsTheCode) {
    const Error error = Error("no such file", ENOENT).in("reading the symbols");
    EXPECT_EQ(error.message(), "reading the symbols: no such file");
    EXPECT_EQ(error.code(), ENOENT);
}

} // namespace
} // namespace shadowmon
