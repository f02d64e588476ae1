// SPDX-License-Identifier: GPL-2.0-or-later
// Slots whose holder is gone, told apart from slots that are held: by slow vCPUs, by vCPUs
// that come and go while they are looked at, by vCPUs that appear meanwhile.
#include "src/session/stray_slots.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

namespace shadowmon::test {
namespace {

using namespace std::chrono_literals;

class Strays : public testing::Test {
  protected:
    static constexpr uint32_t count = 4;

    Strays()
        : views_(UniqueFd(), [this](int, unsigned long request, void* argument) {
              return ioctl(request, argument);
          }) {
        std::vector<sm_slot*> pointers;
        for (sm_slot& slot : slots_)
            pointers.push_back(&slot);
        strays_.emplace(std::move(pointers));
    }

    /// What the gate and the handler do with a slot.
    void claim(uint32_t i) {
        slots_[i].busy = 1;
        slots_[i].claims++;
    }
    void release(uint32_t i) { slots_[i].busy = 0; }

    std::vector<uint32_t> look(StraySlots::Time now) {
        auto freed = strays_->free_strays(views_, now);
        EXPECT_TRUE(freed) << freed.error().message();
        std::vector<uint32_t> indices;
        for (const FreedSlot& slot : *freed)
            indices.push_back(slot.index);
        return indices;
    }
    /// The first look only starts the watch.
    std::vector<uint32_t> look_twice() {
        EXPECT_EQ(look(1s), std::vector<uint32_t>{});
        return look(1s + StraySlots::patience);
    }

    int ioctl(unsigned long request, void* argument) {
        if (fail_with_) {
            errno = fail_with_;
            return -1;
        }
        if (request == KVM_VIEWS_GET_INFO) {
            static_cast<kvm_views_info*>(argument)->nr_vcpus = static_cast<uint32_t>(where_.size());
            return 0;
        }
        auto* vcpu = static_cast<kvm_views_vcpu*>(argument);
        on_look_(looks_++, vcpu->index);
        vcpu->view = where_.at(vcpu->index);
        return 0;
    }

    std::vector<uint32_t> where_ = {KVM_VIEWS_MAIN, KVM_VIEWS_MAIN}; ///< where each vCPU is
    std::array<sm_slot, count> slots_{};
    Views views_;
    std::optional<StraySlots> strays_;
    unsigned looks_ = 0;
    int fail_with_ = 0;
    std::function<void(unsigned look, uint32_t vcpu)> on_look_ = [](unsigned, uint32_t) {};
};

TEST_F(Strays, IdleSlotsCostNoLook) {
    for (int i = 0; i < 100; i++)
        EXPECT_TRUE(look(i * 1s).empty());
    EXPECT_EQ(looks_, 0u);
}

TEST_F(Strays, ShortClaimsCostNoLook) {
    for (int i = 0; i < 100; i++) {
        claim(1); // a new one each time, as seen from outside never released
        EXPECT_TRUE(look(i * 1s).empty());
    }
    EXPECT_EQ(looks_, 0u);
}

TEST_F(Strays, SlotOfAVcpuThatWasExpelledIsFreed) {
    claim(2);
    EXPECT_EQ(look_twice(), std::vector<uint32_t>{2});
    EXPECT_EQ(slots_[2].busy, 0u);
    EXPECT_EQ(slots_[2].claims, 1u);
    EXPECT_EQ(strays_->freed(), 1u);
    EXPECT_EQ(looks_, 4u);
}

TEST_F(Strays, ExpelledBeforeTheClaimWasCounted) {
    slots_[0].busy = 1;
    EXPECT_EQ(look_twice(), std::vector<uint32_t>{0});
}

TEST_F(Strays, AllAtOnce) {
    for (uint32_t i = 0; i < count; i++)
        claim(i);
    EXPECT_EQ(look_twice(), (std::vector<uint32_t>{0, 1, 2, 3}));
}

TEST_F(Strays, SlotOfAVcpuThatIsInsideStays) {
    claim(2);
    where_[1] = KVM_VIEWS_SHADOW;
    EXPECT_TRUE(look_twice().empty());
    EXPECT_EQ(slots_[2].busy, 1u);
    // It is paused there, for as long as it likes.
    EXPECT_TRUE(look(1h).empty());
    where_[1] = KVM_VIEWS_MAIN;
    EXPECT_EQ(look(2h), std::vector<uint32_t>{2});
}

TEST_F(Strays, VcpuIsMetInsideByChance) {
    claim(0);
    on_look_ = [&](unsigned look, uint32_t vcpu) {
        if (vcpu == 1)
            where_[1] = look % 2 ? KVM_VIEWS_SHADOW : KVM_VIEWS_MAIN;
    };
    EXPECT_EQ(look_twice(), std::vector<uint32_t>{0});
}

TEST_F(Strays, LooksAreApart) {
    claim(0);
    where_[0] = KVM_VIEWS_SHADOW;
    for (int ms = 0; ms < 1000; ms++)
        EXPECT_TRUE(look(ms * 1ms).empty());
    EXPECT_LE(looks_, 5 * 4u);
    EXPECT_GE(looks_, 3 * 4u);
}

/// The slot is stuck, is released while the vCPUs are looked at, and claimed by one that has
/// been looked at and has not counted its claim yet.
TEST_F(Strays, ClaimedAnewInTheFirstRound) {
    claim(3);
    on_look_ = [&](unsigned look, uint32_t) {
        if (look == 1) {
            release(3);
            slots_[3].busy = 1;
            where_[0] = KVM_VIEWS_SHADOW;
        }
    };
    EXPECT_TRUE(look_twice().empty());
    EXPECT_EQ(slots_[3].busy, 1u);
}

TEST_F(Strays, ClaimedAnewInTheSecondRound) {
    claim(3);
    on_look_ = [&](unsigned look, uint32_t) {
        if (look == 1) {
            release(3);
            slots_[3].busy = 1; // by vCPU 0
        } else if (look == 2) {
            slots_[3].claims++;
            release(3);
        } else if (look == 3) {
            slots_[3].busy = 1; // by vCPU 0 again
        }
    };
    EXPECT_TRUE(look_twice().empty());
    EXPECT_EQ(slots_[3].busy, 1u);
}

TEST_F(Strays, VcpuThatAppearsMayHoldIt) {
    claim(1);
    on_look_ = [&](unsigned look, uint32_t) {
        if (look == 3)
            where_.push_back(KVM_VIEWS_SHADOW);
    };
    EXPECT_TRUE(look_twice().empty());
    EXPECT_EQ(slots_[1].busy, 1u);
}

TEST_F(Strays, ErrorsLeaveTheSlotAlone) {
    claim(1);
    EXPECT_TRUE(look(1s).empty());
    fail_with_ = ENODEV;
    auto freed = strays_->free_strays(views_, 2s);
    ASSERT_FALSE(freed);
    EXPECT_EQ(freed.error().code(), ENODEV);
    EXPECT_EQ(slots_[1].busy, 1u);
}

/// vCPUs that run in steps of their own between any two looks, some of which are expelled.
/// A slot that is freed is never one that a vCPU holds.
TEST_F(Strays, NeverFreesAHeldSlot) {
    std::mt19937 random(7);
    unsigned freed = 0, expelled = 0;
    for (int run = 0; run < 4000; run++) {
        enum Step { outside, inside, claimed, counted };
        struct Vcpu {
            Step step = outside;
            uint32_t slot = 0;
        };
        slots_ = {};
        where_.assign(3, KVM_VIEWS_MAIN);
        std::array<Vcpu, 3> vcpus{};
        auto advance = [&](uint32_t i) {
            Vcpu& v = vcpus[i];
            if (v.step != outside && random() % 16 == 0) {
                expelled++;
                v.step = outside;
            } else if (v.step == outside) {
                v.step = random() % 4 == 0 ? inside : outside;
            } else if (v.step == inside) {
                v.slot = random() % 2;
                if (slots_[v.slot].busy == 0) {
                    slots_[v.slot].busy = 1;
                    v.step = claimed;
                }
            } else if (v.step == claimed) {
                slots_[v.slot].claims++;
                v.step = counted;
            } else {
                slots_[v.slot].busy = 0;
                v.step = outside;
            }
            where_[i] = v.step == outside ? KVM_VIEWS_MAIN : KVM_VIEWS_SHADOW;
        };
        auto advance_some = [&] {
            for (uint32_t n = random() % 6; n > 0; n--)
                advance(random() % 3);
        };
        on_look_ = [&](unsigned, uint32_t) { advance_some(); };
        std::vector<sm_slot*> pointers;
        for (sm_slot& slot : slots_)
            pointers.push_back(&slot);
        strays_.emplace(std::move(pointers));
        for (int poll = 0; poll < 40; poll++) {
            for (uint32_t i : look(poll * StraySlots::patience)) {
                freed++;
                for (const Vcpu& v : vcpus)
                    EXPECT_FALSE(v.slot == i && (v.step == claimed || v.step == counted))
                        << "run " << run;
            }
            if (random() % 2)
                advance_some();
        }
    }
    EXPECT_GT(freed, 100u);
    EXPECT_GT(expelled, freed);
}

} // namespace
} // namespace shadowmon::test
