// SPDX-License-Identifier: GPL-2.0-or-later
// Hooks that come and go, with the guest's memory and the kernel side played.
#include "src/session/hook_set.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

namespace shadowmon {
namespace {

constexpr Gva text(0xffffffff81000000);
constexpr Gpa text_gpa(0x1000000);
constexpr Gva displaced_at(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET);
constexpr size_t text_size = 4096;
constexpr uint32_t capacity = 16;

/// `mov rbp, rsp` again and again.
constexpr std::byte instruction[] = {std::byte{0x48}, std::byte{0x89}, std::byte{0xe5}};
constexpr std::byte long_nop[] = {std::byte{0x0f}, std::byte{0x1f}, std::byte{0x44}, std::byte{0},
                                  std::byte{0}};
constexpr Gva call_gate(SM_COMPARTMENT_GVA + SM_GATE_OFFSET + 0x100);

class HookSetTest : public testing::Test {
  protected:
    HookSetTest()
        : guest_(text_size), table_(2 * capacity), area_(64 * 1024), limits_(capacity),
          counters_(SM_COUNTERS * capacity),
          views_(UniqueFd(), [this](int, unsigned long request, void* argument) {
              return ioctl(request, argument);
          }) {
        for (size_t i = 0; i + 3 <= text_size; i += 3)
            std::memcpy(&guest_[i], instruction, 3);
        auto table = HookTable::make(table_, capacity);
        EXPECT_TRUE(table);
        DisplacedCode code(displaced_at, area_.size());
        code.publish_to(area_);
        hooks_.emplace(HookSet::Parts{std::move(*table),
                                      std::move(code),
                                      HookLimits(limits_),
                                      HookCounters({counters_}, capacity),
                                      {&slot_},
                                      1'000'000,
                                      call_gate});
    }

    int ioctl(unsigned long request, void* argument) {
        if (request == KVM_VIEWS_PATCH)
            return patch(*static_cast<kvm_views_patches*>(argument));
        if (request == KVM_VIEWS_QUIESCE) {
            quiesces_++;
            errno = EAGAIN;
            return inside_ ? -1 : 0;
        }
        errno = ENOTTY;
        return -1;
    }

    int patch(kvm_views_patches& batch) {
        std::span patches(reinterpret_cast<kvm_views_patch*>(batch.patches), batch.nr);
        for (uint32_t i = 0; i < batch.nr; i++) {
            constexpr uint32_t hidden = KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_HIDE;
            EXPECT_EQ(patches[i].flags & hidden, hidden);
            EXPECT_LE(patches[i].gpa % SM_PAGE_SIZE + patches[i].len, SM_PAGE_SIZE);
            size_t at = patches[i].gpa - text_gpa.value;
            // What the kernel has taken back is not there any more.
            if (std::memcmp(&guest_[at], patches[i].expect, patches[i].len) != 0 ||
                ((patches[i].flags & KVM_VIEWS_PATCH_REVERT) && !undo_.count(at))) {
                batch.failed_index = i;
                errno = ESTALE;
                return -1;
            }
        }
        for (const kvm_views_patch& one : patches) {
            size_t at = one.gpa - text_gpa.value;
            if (one.flags & KVM_VIEWS_PATCH_REVERT) {
                take_back(at);
            } else {
                auto first = guest_.begin() + static_cast<std::ptrdiff_t>(at);
                undo_[at].assign(first, first + one.len);
                std::memcpy(&guest_[at], one.bytes, one.len);
            }
            flags_ |= one.flags;
        }
        batch.pause_tsc = 100;
        return 0;
    }

    /// As the kernel does it for a revert, and before the guest writes there.
    void take_back(size_t at) {
        std::copy(undo_.at(at).begin(), undo_.at(at).end(),
                  guest_.begin() + static_cast<std::ptrdiff_t>(at));
        undo_.erase(at);
    }

    static HookRequest request(size_t n, std::optional<uint64_t> limit = {}) {
        Gva at = text + 3 * n;
        auto decoded = Instruction::decode(at, instruction);
        HookRequest request{"hook" + std::to_string(n),
                            {{*decoded}, {std::begin(instruction), std::end(instruction)}},
                            {std::begin(instruction), std::end(instruction)},
                            text_gpa + 3 * n,
                            SM_EVENT_HOOK,
                            0,
                            limit};
        return request;
    }
    /// A hook on a NOP of five bytes, which is put there.
    HookRequest call_request(size_t offset) {
        std::copy(std::begin(long_nop), std::end(long_nop),
                  guest_.begin() + static_cast<std::ptrdiff_t>(offset));
        auto decoded = Instruction::decode(text + offset, long_nop);
        std::vector<std::byte> bytes(std::begin(long_nop), std::end(long_nop));
        return {
            "called", {{*decoded}, bytes, Gate::call}, bytes, text_gpa + offset, SM_EVENT_HOOK, 0,
            {}};
    }
    uint32_t add(size_t n) {
        HookRequest one = request(n);
        auto ids = hooks_->add(views_, {&one, 1});
        EXPECT_TRUE(ids) << ids.error().message();
        return ids ? ids->front() : ~0u;
    }
    bool hooked(size_t n) const { return std::memcmp(&guest_[3 * n], hook_bytes.data(), 2) == 0; }
    void leave() {
        for (int i = 0; i < 4; i++)
            hooks_->tick(views_, true);
        EXPECT_FALSE(hooks_->leaving());
    }

    std::vector<std::byte> guest_;
    std::map<size_t, std::vector<std::byte>> undo_;
    uint32_t flags_ = 0; // of all patches so far
    std::vector<sm_hook> table_;
    std::vector<std::byte> area_;
    std::vector<sm_limit> limits_;
    std::vector<uint64_t> counters_;
    sm_slot slot_{};
    Views views_;
    std::optional<HookSet> hooks_;
    bool inside_ = false;
    unsigned quiesces_ = 0;
};

TEST_F(HookSetTest, AddDisableEnableRemove) {
    std::vector<std::byte> before = guest_;
    uint32_t id = add(5);
    EXPECT_TRUE(hooked(5));
    EXPECT_EQ(hooks_->status(id).state, "on");
    EXPECT_EQ(hooks_->status(id).address, (text + 15).value);
    auto off = hooks_->disable(views_, std::vector{id});
    ASSERT_TRUE(off);
    EXPECT_EQ(off->pause_tsc, 100u);
    EXPECT_EQ(guest_, before);
    EXPECT_EQ(hooks_->status(id).state, "off");
    EXPECT_EQ(hooks_->disable(views_, std::vector{id})->pause_tsc, 0u) << "nothing to do";
    ASSERT_TRUE(hooks_->enable(views_, std::vector{id}));
    EXPECT_TRUE(hooked(5));
    ASSERT_TRUE(hooks_->remove(views_, std::vector{id}));
    EXPECT_EQ(guest_, before);
    EXPECT_EQ(hooks_->size(), 0u);
    leave();
}

TEST_F(HookSetTest, NothingIsUsedAgainWhileAVcpuMayBeThere) {
    uint32_t id = add(1);
    const std::vector<std::byte> code = area_;
    ASSERT_TRUE(hooks_->remove(views_, std::vector{id}));
    inside_ = true;
    for (int i = 0; i < 5; i++)
        hooks_->tick(views_, true);
    EXPECT_TRUE(hooks_->leaving());
    EXPECT_EQ(area_, code) << "the piece is still run by somebody";
    inside_ = false;
    // A slot that is held since before the entry was taken out of the table.
    slot_.busy = 1;
    for (int i = 0; i < 5; i++)
        hooks_->tick(views_, true);
    EXPECT_TRUE(hooks_->leaving());
    EXPECT_EQ(area_, code);
    slot_.busy = 0;
    hooks_->tick(views_, true);
    EXPECT_NE(area_, code);
    leave();
}

TEST_F(HookSetTest, AnIdIsNewOnlyWhenItsEventsAreOut) {
    std::vector<uint32_t> ids;
    for (uint32_t i = 0; i < capacity; i++)
        ids.push_back(add(i));
    EXPECT_EQ(hooks_->room(), 0u);
    HookRequest one_more = request(capacity);
    auto full = hooks_->add(views_, {&one_more, 1});
    ASSERT_FALSE(full);
    EXPECT_NE(full.error().message().find("16 hooks are possible"), std::string::npos);
    ASSERT_TRUE(hooks_->remove(views_, std::vector{ids[3]}));
    for (int i = 0; i < 5; i++)
        hooks_->tick(views_, false);
    EXPECT_EQ(hooks_->room(), 0u) << "events of it may be in the rings";
    hooks_->tick(views_, true);
    EXPECT_EQ(hooks_->room(), 1u);
    EXPECT_EQ(add(capacity), ids[3]);
}

TEST_F(HookSetTest, AllOrNone) {
    std::vector<std::byte> before = guest_;
    std::vector<HookRequest> requests = {request(1), request(2), request(3)};
    guest_[9] = std::byte{0xcc}; // the guest's own breakpoint
    auto ids = hooks_->add(views_, requests);
    ASSERT_FALSE(ids);
    EXPECT_EQ(ids.error().code(), ESTALE);
    EXPECT_NE(ids.error().message().find("hook3"), std::string::npos) << ids.error().message();
    guest_[9] = before[9];
    EXPECT_EQ(guest_, before);
    EXPECT_EQ(hooks_->size(), 0u);
    leave();
    EXPECT_TRUE(hooks_->add(views_, requests));
}

TEST_F(HookSetTest, OnePlaceOneHook) {
    add(1);
    HookRequest again = request(1);
    auto twice = hooks_->add(views_, {&again, 1});
    ASSERT_FALSE(twice);
    EXPECT_NE(twice.error().message().find("there is a hook already"), std::string::npos);
    EXPECT_TRUE(hooks_->covers(text + 5, 1)) << "the last byte of the displaced instruction";
    EXPECT_FALSE(hooks_->covers(text + 6, 1));
    EXPECT_FALSE(hooks_->covers(text + 2, 1));
}

TEST_F(HookSetTest, WhatTheGuestOverwritesIsRetired) {
    uint32_t a = add(1), b = add(2), c = add(3);
    take_back(6);
    guest_[6] = std::byte{0xcc};
    auto off = hooks_->disable(views_, std::vector{a, b, c});
    ASSERT_TRUE(off) << off.error().message();
    EXPECT_EQ(hooks_->status(a).state, "off");
    EXPECT_EQ(hooks_->status(b).state, "retired");
    EXPECT_EQ(hooks_->status(b).note, "the guest has changed its code there");
    EXPECT_EQ(hooks_->status(c).state, "off");
    EXPECT_EQ(guest_[6], std::byte{0xcc}) << "the guest's bytes are the guest's";
    ASSERT_TRUE(hooks_->enable(views_, std::vector{a, b, c}));
    EXPECT_EQ(hooks_->status(b).state, "retired");

    take_back(3);
    auto retired = hooks_->overwritten(views_, text_gpa + 3);
    ASSERT_TRUE(retired);
    EXPECT_EQ(*retired, a);
    EXPECT_EQ(hooks_->status(a).state, "retired");
    EXPECT_FALSE(*hooks_->overwritten(views_, text_gpa + 3)) << "once";
    EXPECT_FALSE(*hooks_->overwritten(views_, text_gpa + 300));
    take_back(9);
    retired = hooks_->overwritten(views_, text_gpa + 11);
    EXPECT_EQ(*retired, c) << "the last byte of the displaced instruction";
    ASSERT_TRUE(hooks_->remove(views_, std::vector{a, b, c}));
    EXPECT_TRUE(undo_.empty());
    leave();
}

GuestModule module_named(const std::string& name) {
    GuestModule module;
    module.name = name;
    return module;
}

TEST_F(HookSetTest, AModuleThatGoesTakesItsHooksAlong) {
    const std::vector<std::byte> before = guest_;
    std::vector<HookRequest> requests = {request(1), request(2), request(3), request(4)};
    for (size_t i : {0, 1, 2})
        requests[i].module = module_named("brd");
    auto ids = hooks_->add(views_, requests);
    ASSERT_TRUE(ids) << ids.error().message();
    EXPECT_EQ(hooks_->in_modules(), std::vector(ids->begin(), ids->begin() + 3));
    ASSERT_TRUE(hooks_->disable(views_, std::vector{(*ids)[1]}));
    // The third has been overwritten before.
    take_back(9);
    EXPECT_EQ(*hooks_->overwritten(views_, text_gpa + 9), (*ids)[2]);
    ASSERT_EQ(hooks_->take_retired().size(), 1u);

    inside_ = true; // a vCPU waits with the module
    auto gone = hooks_->let_modules_go(views_, hooks_->in_modules(), "module brd was unloaded");
    ASSERT_TRUE(gone) << gone.error().message();
    EXPECT_EQ(gone->pause_tsc, 100u) << "one batch";
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + 12, guest_.begin()));
    EXPECT_TRUE(hooked(4)) << "not of the module";
    EXPECT_TRUE(hooks_->in_modules().empty());
    auto retired = hooks_->take_retired();
    ASSERT_EQ(retired.size(), 2u) << "each once";
    EXPECT_EQ(retired[0].id, (*ids)[0]);
    EXPECT_EQ(retired[0].name, "hook1");
    EXPECT_EQ(retired[1].why, "module brd was unloaded");
    EXPECT_TRUE(hooks_->take_retired().empty());
    EXPECT_EQ(hooks_->status((*ids)[0]).state, "retired");
    EXPECT_EQ(hooks_->status((*ids)[1]).note, "module brd was unloaded");
    EXPECT_EQ(hooks_->status((*ids)[2]).note, "the guest has changed its code there");
    ASSERT_TRUE(hooks_->enable(views_, *ids));
    EXPECT_FALSE(hooked(2)) << "its place is nobody's";

    // Another module comes to where it was: as soon as nobody is on the way through the old hook.
    EXPECT_FALSE(hooks_->covers(text + 3, 1));
    EXPECT_FALSE(hooks_->add(views_, {&requests[0], 1}));
    inside_ = false;
    leave();
    auto anew = hooks_->add(views_, {&requests[0], 1});
    ASSERT_TRUE(anew) << anew.error().message();
    EXPECT_TRUE(hooked(1));
    EXPECT_NE(anew->front(), (*ids)[0]) << "the old one is still listed";
    EXPECT_EQ(hooks_->list().size(), 5u);
    const size_t room = hooks_->room();
    ASSERT_TRUE(hooks_->remove(views_, *ids));
    leave();
    EXPECT_EQ(hooks_->room(), room + 4);
    EXPECT_TRUE(hooked(1));
    EXPECT_EQ(hooks_->list().size(), 1u);
}

TEST_F(HookSetTest, TheMonitorsOwnHooksAreNobodysAffair) {
    HookRequest own = request(1);
    own.internal = true;
    auto id = hooks_->add(views_, {&own, 1});
    ASSERT_TRUE(id);
    uint32_t other = add(2);
    EXPECT_TRUE(hooks_->is_on(id->front()));
    EXPECT_EQ(hooks_->list().size(), 1u);
    EXPECT_EQ(*hooks_->select({"*"}), std::vector{other});
    EXPECT_FALSE(hooks_->select({std::to_string(id->front())}));
    EXPECT_EQ(hooks_->active(), (std::vector{other, id->front()})) << "it goes last";
    take_back(3);
    EXPECT_EQ(*hooks_->overwritten(views_, text_gpa + 3), id->front());
    EXPECT_FALSE(hooks_->is_on(id->front()));
    EXPECT_TRUE(hooks_->take_retired().empty());
}

/// Of a module the next page is anywhere.
TEST_F(HookSetTest, PagesOfAModuleLieAnywhere) {
    constexpr size_t at = text_size - 1, elsewhere = 3 * text_size;
    guest_.resize(4 * text_size);
    HookRequest one = request(0);
    std::copy(std::begin(instruction), std::begin(instruction) + 1, guest_.begin() + at);
    std::copy(std::begin(instruction) + 1, std::end(instruction), guest_.begin() + elsewhere);
    const std::vector<std::byte> before = guest_;
    one.displaced.instructions = {*Instruction::decode(text + at, instruction)};
    one.gpa = text_gpa + at;
    one.next_page = text_gpa + elsewhere;
    one.module = module_named("brd");
    auto ids = hooks_->add(views_, {&one, 1});
    ASSERT_TRUE(ids) << ids.error().message();
    EXPECT_EQ(guest_[at], hook_bytes[0]);
    EXPECT_EQ(guest_[elsewhere], hook_bytes[1]);
    EXPECT_EQ(guest_[text_size], before[text_size]) << "behind it is something else";
    EXPECT_FALSE(*hooks_->overwritten(views_, text_gpa + text_size));
    take_back(elsewhere);
    EXPECT_EQ(*hooks_->overwritten(views_, text_gpa + elsewhere + 1), ids->front());
    EXPECT_EQ(guest_, before);
    EXPECT_TRUE(undo_.empty());
}

TEST_F(HookSetTest, OnTwoPagesTheGuestMayWriteToEither) {
    constexpr size_t at = text_size - 1;
    guest_.resize(text_size + 2);
    HookRequest one = request(0);
    auto decoded = Instruction::decode(text + at, instruction);
    std::copy(std::begin(instruction), std::end(instruction), guest_.begin() + std::ptrdiff_t{at});
    const std::vector<std::byte> before = guest_;
    one.displaced.instructions = {*decoded};
    one.gpa = text_gpa + at;
    for (size_t written : {at, text_size}) {
        auto ids = hooks_->add(views_, {&one, 1});
        ASSERT_TRUE(ids) << ids.error().message();
        EXPECT_EQ(undo_.size(), 2u);
        take_back(written);
        auto retired = hooks_->overwritten(views_, text_gpa + written);
        ASSERT_TRUE(retired) << retired.error().message();
        EXPECT_EQ(*retired, ids->front());
        EXPECT_TRUE(undo_.empty());
        EXPECT_EQ(guest_, before);
        ASSERT_TRUE(hooks_->remove(views_, *ids));
        EXPECT_TRUE(hooks_->leaves(one.displaced)) << "and is not to be put there yet";
        leave();
        EXPECT_FALSE(hooks_->leaves(one.displaced));
    }
}

TEST_F(HookSetTest, ByCall) {
    constexpr size_t at = 300;
    HookRequest one = call_request(at);
    const std::vector<std::byte> before = guest_, code = area_;
    auto ids = hooks_->add(views_, {&one, 1});
    ASSERT_TRUE(ids) << ids.error().message();
    EXPECT_TRUE(flags_ & KVM_VIEWS_PATCH_CALL);
    EXPECT_EQ(hooks_->status(ids->front()).gate, "call");
    auto call = Instruction::decode(text + at, std::span(guest_).subspan(at));
    ASSERT_TRUE(call);
    EXPECT_EQ(call->branch_target(), call_gate);
    EXPECT_EQ(area_, code) << "nothing is displaced";
    auto entry = std::find_if(table_.begin(), table_.end(), [](const sm_hook& hook) {
        return hook.rip == (text + at + 5).value;
    });
    ASSERT_NE(entry, table_.end());
    EXPECT_EQ(entry->flags, SM_HOOK_CALL);
    ASSERT_TRUE(hooks_->remove(views_, *ids));
    EXPECT_EQ(guest_, before);
    leave();
    flags_ = 0;
    add(1);
    EXPECT_FALSE(flags_ & KVM_VIEWS_PATCH_CALL);
}

TEST_F(HookSetTest, Selection) {
    uint32_t a = add(1), b = add(2), c = add(11);
    auto select = [&](const std::vector<std::string>& words) {
        auto ids = hooks_->select(words);
        return ids ? *ids : std::vector<uint32_t>{~0u};
    };
    EXPECT_EQ(select({"hook1"}), std::vector{a});
    EXPECT_EQ(select({"hook1*"}), (std::vector{a, c}));
    EXPECT_EQ(select({std::to_string(b), "hook2"}), std::vector{b});
    EXPECT_EQ(select({"*"}), (std::vector{a, b, c}));
    EXPECT_EQ(select({"hook1", std::to_string(a), "hook?", "hook1"}), (std::vector{a, b}));
    EXPECT_EQ(select({}), std::vector<uint32_t>());
    auto none = hooks_->select({"hook1", "nothing"});
    ASSERT_FALSE(none);
    EXPECT_NE(none.error().message().find("no hook \"nothing\""), std::string::npos);
    EXPECT_FALSE(hooks_->select({"4711"}));
}

TEST_F(HookSetTest, LimitsAndCounters) {
    HookRequest limited = request(1, 500);
    auto ids = hooks_->add(views_, {&limited, 1});
    ASSERT_TRUE(ids) << ids.error().message();
    uint32_t id = ids->front();
    EXPECT_EQ(limits_[id].events, 50u) << "per tenth of a second";
    EXPECT_EQ(*hooks_->status(id).limit, 500u);
    counters_[SM_COUNTER_RECORDED * capacity + id] = 7;
    counters_[SM_COUNTER_LIMITED * capacity + id] = 3;
    EXPECT_EQ(hooks_->status(id).hits(), 10u);
    ASSERT_TRUE(hooks_->remove(views_, std::vector{id}));
    leave();
    // The next one with this id starts from zero.
    for (uint32_t i = 0; i < capacity; i++)
        add(20 + i);
    EXPECT_EQ(hooks_->status(id).hits(), 0u);
    HookRequest absurd = request(60, uint64_t{1} << 40);
    EXPECT_FALSE(hooks_->add(views_, {&absurd, 1}));
}

/// The guest's code is always its own where no hook is on, whatever is done in whatever order.
TEST_F(HookSetTest, RandomOrders) {
    const std::vector<std::byte> before = guest_;
    std::mt19937 random(7);
    std::map<size_t, uint32_t> there;
    for (int round = 0; round < 20'000; round++) {
        size_t n = random() % 40;
        auto found = there.find(n);
        inside_ = random() % 4 == 0;
        slot_.busy = random() % 3 == 0;
        slot_.claims += random() % 2;
        if (found == there.end()) {
            HookRequest one = request(n);
            if (auto ids = hooks_->add(views_, {&one, 1}))
                there[n] = ids->front();
            else
                ASSERT_TRUE(hooks_->room() == 0 || hooks_->leaving()) << ids.error().message();
        } else if (random() % 3 == 0) {
            ASSERT_TRUE(hooks_->remove(views_, std::vector{found->second}));
            there.erase(found);
        } else {
            ASSERT_TRUE(random() % 2 ? hooks_->enable(views_, std::vector{found->second})
                                     : hooks_->disable(views_, std::vector{found->second}));
        }
        hooks_->tick(views_, random() % 2);
        for (size_t i = 0; i < 40; i++) {
            auto known = there.find(i);
            bool on = known != there.end() && hooks_->status(known->second).state == "on";
            ASSERT_EQ(hooked(i), on);
            ASSERT_TRUE(on || std::memcmp(&guest_[3 * i], &before[3 * i], 3) == 0);
        }
    }
    EXPECT_GT(quiesces_, 100u);
}

} // namespace
} // namespace shadowmon
