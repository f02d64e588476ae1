// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/base/address.h"

#include <gtest/gtest.h>

#include <type_traits>

namespace shadowmon {
namespace {

static_assert(!std::is_convertible_v<uint64_t, Gva>, "an integer is no address by itself");
static_assert(!std::is_convertible_v<Gva, Gpa>, "kinds of addresses do not mix");
static_assert(sizeof(Gva) == sizeof(uint64_t));

TEST(Address, PageAndOffsetMakeUpTheAddress) {
    constexpr Gva gva(0xffffffff81234567);
    EXPECT_EQ(gva.page(), Gva(0xffffffff81234000));
    EXPECT_EQ(gva.page_offset(), 0x567u);
    EXPECT_EQ(gva.page() + gva.page_offset(), gva);
}

TEST(Address, ArithmeticCountsBytesAndWraps) {
    EXPECT_EQ(Gpa(0x2000) - Gpa(0x1ff8), 8u);
    EXPECT_EQ(Gpa(0x2000) - 8, Gpa(0x1ff8));
    EXPECT_EQ(Gva(~uint64_t{0}) + 1, Gva(0));
}

TEST(Address, OrdersAsUnsigned) {
    EXPECT_LT(Gva(0x7fffffffffff), Gva(0xffff888000000000));
    EXPECT_EQ(Gva(), Gva(0));
}

} // namespace
} // namespace shadowmon
