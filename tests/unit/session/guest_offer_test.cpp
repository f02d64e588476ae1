// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/guest_offer.h"

#include "abi/layout.h"
#include "tests/unit/guest/synthetic.h"

#include <gtest/gtest.h>

#include <random>

namespace shadowmon::test {
namespace {

constexpr Gva range{SM_COMPARTMENT_GVA};
constexpr uint64_t reservation = 0x2a34000 | SM_RESERVATION_BITS;

/// A guest with the kernel's text mapped, as a walk sees it, and a reservation beside it.
class Offer : public testing::TestWithParam<unsigned> {
  protected:
    Offer() : memory_(16 << 20), root_(memory_.new_page()) {
        memory_.map(root_, levels(), Gva(0xffffffff81000000), Gpa(0x200000), 2, Writable);
        memory_.entry(root_, levels(), range, 3) = reservation;
        offer_.version = SM_OFFER_VERSION;
        offer_.gva = SM_COMPARTMENT_GVA;
        offer_.size = SM_COMPARTMENT_SIZE;
        offer_.entry_gpa = entry().value;
    }

    unsigned levels() const { return GetParam(); }
    Gpa entry() {
        auto* word = reinterpret_cast<std::byte*>(&memory_.entry(root_, levels(), range, 3));
        return Gpa(static_cast<uint64_t>(word - memory_.bytes().data()));
    }
    Result<Gpa> verify() const {
        return verify_offer(offer_, PageTables(memory_, root_, levels()));
    }
    std::string refusal() const {
        auto entry = verify();
        return entry ? "believed" : entry.error().message();
    }

    SmallMemory memory_;
    Gpa root_;
    kvm_views_offer offer_{};
};

#define EXPECT_SAYS(text) EXPECT_NE(refusal().find(text), std::string::npos) << refusal()

TEST_P(Offer, IsBelievedWhenTheWalkComesToItsEntry) {
    auto verified = verify();
    ASSERT_TRUE(verified) << verified.error().message();
    EXPECT_EQ(*verified, entry());
}

TEST_P(Offer, NamesWhatIsWrong) {
    const kvm_views_offer good = offer_;
    offer_ = {};
    EXPECT_SAYS("offers no address range");
    offer_ = good;
    offer_.version++;
    EXPECT_SAYS("is of version 2");
    offer_ = good;
    offer_.gva += 0x1000;
    EXPECT_SAYS("bytes at 0xffffffff40001000");
    offer_ = good;
    offer_.size = SM_COMPARTMENT_SIZE / 2;
    EXPECT_SAYS("offers 0x20000000 bytes");
    offer_ = good;
    offer_.entry_gpa += 8; // the kernel's text
    EXPECT_SAYS("not to be believed");
}

TEST_P(Offer, NoOtherEntryIsBelieved) {
    const uint64_t good = offer_.entry_gpa;
    std::mt19937_64 random(levels());
    for (unsigned i = 0; i < 10000; i++) {
        // Anywhere, near by, in each of the tables, and beyond the end of memory.
        uint64_t draw = random();
        switch (i % 4) {
        case 0:
            offer_.entry_gpa = draw;
            break;
        case 1:
            offer_.entry_gpa = good ^ (uint64_t{1} << draw % 64);
            break;
        case 2:
            offer_.entry_gpa = draw % (16 << 20) & ~uint64_t{7};
            break;
        case 3:
            offer_.entry_gpa = good + draw % 64 - 32;
            break;
        }
        ASSERT_EQ(verify().has_value(), offer_.entry_gpa == good) << offer_.entry_gpa;
    }
}

TEST_P(Offer, TablesThatEndTooSoonAreRefused) {
    const uint64_t above = memory_.entry(root_, levels(), range, 4);
    memory_.entry(root_, levels(), range, 4) = 0;
    EXPECT_SAYS("not present");
    memory_.entry(root_, levels(), range, 4) = above | LargePage;
    EXPECT_SAYS("malformed");
    memory_.entry(root_, levels(), range, 4) = 0x7ffffffff000 | Present;
    // The walk ends at a table that nothing is read of: it is another one than the guest names.
    EXPECT_SAYS("not to be believed");
}

TEST_P(Offer, OtherTablesOfTheGuestDoNotCount) {
    // The guest names an entry of tables that it has made for this.
    Gpa other = memory_.new_page();
    memory_.map(other, levels(), Gva(0xffffffff81000000), Gpa(0x200000), 2, Writable);
    auto* word = reinterpret_cast<std::byte*>(&memory_.entry(other, levels(), range, 3));
    offer_.entry_gpa = static_cast<uint64_t>(word - memory_.bytes().data());
    EXPECT_SAYS("not to be believed");
}

INSTANTIATE_TEST_SUITE_P(Levels, Offer, testing::Values(4u, 5u));

TEST(Reservation, IsNothingThatTheCpuOrTheKernelTakesForATable) {
    EXPECT_TRUE(is_reservation(reservation));
    EXPECT_FALSE(is_reservation(0));
    EXPECT_FALSE(is_reservation(0x2a34067));             // a table of the kernel's
    EXPECT_FALSE(is_reservation(reservation | Present)); // the CPU would follow it
    EXPECT_FALSE(is_reservation(reservation | LargePage));
}

} // namespace
} // namespace shadowmon::test
