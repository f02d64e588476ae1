// SPDX-License-Identifier: GPL-2.0-or-later
// A trace from arming to detaching, with records put into the rings as the payload
// would, and everything that may end it: signals, time, the VM's end, reset, panic, a
// full disk. SM_GUEST_IMAGE names the guest.
#include "tests/unit/session/traced_vm.h"

#include <gtest/gtest.h>

#include <cstring>

namespace shadowmon::test {
namespace {

class Loop : public TracedVm {
  protected:
    void SetUp() override {
        Options options;
        options.monitors = {true, true};
        options.ring_size = 0x1000;
        arm(options);
        if (!session_)
            return;
        auto region = session_->views().map_region(vm_->region.pages);
        ASSERT_TRUE(region);
        region_.emplace(std::move(*region));
        ring_ = ring_in(session_->layout(), region_->bytes(), 0);
        open_output();
    }

    /// Produces one system-call exit; false if there is no room.
    bool produce() {
        sm_event_syscall_exit event{};
        if (ring_->head + sizeof(event) - __atomic_load_n(&ring_->tail, __ATOMIC_ACQUIRE) > 0x1000)
            return false;
        size_t at = ring_->head & 0xfff;
        auto* data = reinterpret_cast<std::byte*>(ring_) + SM_RING_DATA_OFFSET;
        if (0x1000 - at < sizeof(event)) {
            sm_event_header pad{};
            pad.size = static_cast<uint32_t>(0x1000 - at);
            std::memcpy(data + at, &pad, 8);
            __atomic_store_n(&ring_->head, ring_->head + pad.size, __ATOMIC_RELEASE);
            return produce();
        }
        event.h.type = SM_EVENT_SYSCALL_EXIT;
        event.h.size = sizeof(event);
        event.h.seq = ring_->seq++;
        event.h.tsc = ring_->last_tsc = 1'000'000'001 + event.h.seq;
        event.h.pid = event.h.tid = 42;
        event.b.nr = 39;
        std::memcpy(data + at, &event, sizeof(event));
        ring_->recorded[SM_EVENT_SYSCALL_EXIT]++;
        __atomic_store_n(&ring_->head, ring_->head + sizeof(event), __ATOMIC_RELEASE);
        return true;
    }
    void ask_to_stop() {
        uint64_t one = 1;
        ASSERT_EQ(write(stop_.get(), &one, sizeof(one)), 8);
    }
    sm_slot* slot() { return slot_in(session_->layout(), region_->bytes(), 0); }

    UniqueFd stop_{eventfd(0, EFD_CLOEXEC)};
    std::optional<RegionMapping> region_;
    sm_ring* ring_ = nullptr;
};

TEST_F(Loop, EndsCleanlyWhenAsked) {
    for (int i = 0; i < 10; i++)
        ASSERT_TRUE(produce());
    ask_to_stop();
    EXPECT_EQ(loop_->run({}, stop_.get()), TraceEnd::asked);
    std::string text = finish_and_read();
    EXPECT_EQ(lines(text, "\"getpid\""), 10u + 1u); // and once in the summary
    EXPECT_EQ(vm_->batches.size(), 2u);
    EXPECT_EQ(vm_->batches[1][0].flags,
              KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_HIDE | KVM_VIEWS_PATCH_REVERT);
    EXPECT_EQ(vm_->count(KVM_VIEWS_DISABLE), 1u);
    EXPECT_EQ(loop_->events(), 10u);
    EXPECT_EQ(notices_, "");
}

/// For an event loop of somebody else's: nothing is waited for.
TEST_F(Loop, Dispatch) {
    EXPECT_EQ(loop_->dispatch(), std::nullopt);
    for (int i = 0; i < 10; i++)
        ASSERT_TRUE(produce());
    EXPECT_EQ(loop_->dispatch(), std::nullopt);
    EXPECT_EQ(loop_->events(), 10u);
    uint64_t one = 1;
    ASSERT_EQ(write(pidfd_.get(), &one, sizeof(one)), 8);
    EXPECT_EQ(loop_->dispatch(), TraceEnd::vm_gone);
    finish_and_read();
}

/// Commands of the user of the library: as those from the control socket.
TEST_F(Loop, CommandsAreAnswered) {
    HookReply reply = loop_->answer({HookCommand::Verb::list, {}, {}});
    EXPECT_EQ(reply.error, "");
    EXPECT_EQ(reply.hooks.size(), session_->hooks().size());
    reply = loop_->answer({HookCommand::Verb::disable, {"no_such_hook"}, {}});
    EXPECT_NE(reply.error.find("there is no hook"), std::string::npos) << reply.error;
    vm_->stats = {};
    reply = loop_->answer({HookCommand::Verb::disable, {"do_syscall_64"}, {}});
    EXPECT_EQ(reply.error, "");
    ASSERT_EQ(reply.hooks.size(), 1u);
    EXPECT_EQ(reply.hooks[0].state, "off");
    EXPECT_NE(reply.pause_tsc, 0u);
    finish_and_read();
}

/// A vCPU that stays in a hook holds up that hook's end and nothing else.
TEST_F(Loop, EventsFlowWhileAVcpuStaysInsideARemovedHook) {
    auto text = [&] {
        auto bytes = displaced_in(session_->layout(), region_->bytes());
        return std::vector<std::byte>(bytes.begin(), bytes.end());
    };
    const std::vector<std::byte> displaced = text();
    const uint32_t removed = session_->hooks().select({"do_syscall_64"})->front();
    vm_->fail_with = {{KVM_VIEWS_QUIESCE, EAGAIN}};
    EXPECT_EQ(loop_->answer({HookCommand::Verb::remove, {"do_syscall_64"}, {}}).error, "");
    for (uint64_t i = 1; i <= 20; i++) {
        ASSERT_TRUE(produce());
        EXPECT_EQ(loop_->dispatch(), std::nullopt);
        EXPECT_EQ(loop_->events(), i) << "at once";
    }
    EXPECT_GE(vm_->count(KVM_VIEWS_QUIESCE), 20u);
    EXPECT_EQ(vm_->waits, 0u);
    EXPECT_TRUE(session_->hooks().leaving());
    EXPECT_EQ(text(), displaced) << "somebody may be in it";
    const size_t room = session_->hooks().room();

    vm_->fail_with.clear();
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(200)), TraceEnd::time_over);
    EXPECT_FALSE(session_->hooks().leaving());
    EXPECT_NE(text(), displaced);
    EXPECT_EQ(session_->hooks().room(), room + 1);
    EXPECT_FALSE(session_->hooks().select({std::to_string(removed)}));
    EXPECT_EQ(vm_->waits, 0u);
    finish_and_read();
}

TEST_F(Loop, DurationEnds) {
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(30)), TraceEnd::time_over);
    finish_and_read();
}

TEST_F(Loop, VmEnds) {
    ASSERT_TRUE(produce());
    uint64_t one = 1;
    ASSERT_EQ(write(pidfd_.get(), &one, sizeof(one)), 8);
    vm_->fail_with = {{KVM_VIEWS_PATCH, ENODEV}, {KVM_VIEWS_DISABLE, ENODEV}};
    EXPECT_EQ(loop_->run({}), TraceEnd::vm_gone);
    EXPECT_EQ(lines(finish_and_read(), "\"pid\":42"), 1u + 1u);
    EXPECT_EQ(notices_, "");
}

/// The VMM is ending: its memory is gone, the VM is not yet. Nothing can be put back,
/// and the guest is not to blame.
TEST_F(Loop, MemoryThatWentWithTheVmmIsNoConflict) {
    uint64_t one = 1;
    ASSERT_EQ(write(pidfd_.get(), &one, sizeof(one)), 8);
    vm_->stats.undo_conflicts = 7;
    EXPECT_EQ(loop_->run({}), TraceEnd::vm_gone);
    finish_and_read();
    EXPECT_EQ(notices_, "");
}

TEST_F(Loop, VmThatEndsDuringTheDetachIsNoConflict) {
    ask_to_stop();
    EXPECT_EQ(loop_->run({}, stop_.get()), TraceEnd::asked);
    vm_->stats.undo_conflicts = 7;
    vm_->fail_with = {{KVM_VIEWS_PATCH, ENODEV}};
    finish_and_read();
    EXPECT_EQ(notices_, "");
}

TEST_F(Loop, ResetEnds) {
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_RESET;
    vm_->queue(event);
    vm_->stats.undo_conflicts = 5;
    EXPECT_EQ(loop_->run(std::chrono::seconds(20)), TraceEnd::vm_reset);
    finish_and_read();
    EXPECT_NE(notices_.find("was reset with the hooks in its kernel: 5 of"), std::string::npos)
        << notices_;
    EXPECT_EQ(notices_.find("the guest had changed"), std::string::npos) << notices_;
}

/// The guest takes a CPU down and up.
TEST_F(Loop, InitOfOneVcpuIsAnIncident) {
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_RESET;
    event.vcpu_id = 1;
    event.arg = KVM_VIEWS_RESET_INIT;
    vm_->queue(event);
    ASSERT_TRUE(produce());
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(50)), TraceEnd::time_over);
    EXPECT_EQ(loop_->incidents(), 1u);
    EXPECT_NE(notices_.find("vCPU 1: was reset by the guest (INIT)"), std::string::npos)
        << notices_;
    vm_->stats.undo_conflicts = 5;
    finish_and_read();
    EXPECT_EQ(notices_.find("was reset with the hooks"), std::string::npos) << notices_;
    EXPECT_EQ(loop_->events(), 1u);
}

/// In the middle of an event: the slot is free again.
TEST_F(Loop, SlotOfAVcpuThatGotInitIsFreed) {
    slot()->claims++;
    slot()->busy = 1;
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_RESET;
    event.arg = KVM_VIEWS_RESET_INIT;
    event.view = KVM_VIEWS_SHADOW;
    vm_->queue(event);
    EXPECT_EQ(loop_->run(3 * StraySlots::patience), TraceEnd::time_over);
    EXPECT_EQ(slot()->busy, 0u);
    EXPECT_EQ(session_->freed_slots(), 1u);
    finish_and_read();
}

TEST_F(Loop, PanicEnds) {
    auto symbol = session_->kernel().symbols.address("panic_cpu");
    ASSERT_TRUE(symbol);
    int32_t cpu = 1;
    vm_->memory.write(*session_->kernel().to_gpa(*symbol), std::as_bytes(std::span(&cpu, 1)));
    EXPECT_EQ(loop_->run(std::chrono::seconds(20)), TraceEnd::panic);
    finish_and_read();
}

TEST_F(Loop, FullDiskEnds) {
    open_output("/dev/full");
    ASSERT_TRUE(produce());
    EXPECT_EQ(loop_->run(std::chrono::seconds(20)), TraceEnd::output);
    ASSERT_TRUE(loop_->error());
    EXPECT_NE(loop_->error()->message().find("/dev/full"), std::string::npos)
        << loop_->error()->message();
    EXPECT_TRUE(loop_->stop());
    EXPECT_TRUE(loop_->detach());
    EXPECT_EQ(vm_->count(KVM_VIEWS_DISABLE), 1u);
}

TEST_F(Loop, ParkedVcpuGoesOnWhenThereIsRoom) {
    while (produce())
        ;
    uint64_t before = ring_->recorded[SM_EVENT_SYSCALL_EXIT];
    bool had_room = false;
    vm_->on_resume = [&] { had_room = produce(); };
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_CALL;
    event.vcpu_id = 1;
    event.arg = SM_CALL_RING_FULL;
    vm_->queue(event);
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(200)), TraceEnd::time_over);
    EXPECT_EQ(vm_->resumed, std::vector<uint32_t>{1});
    EXPECT_TRUE(had_room);
    finish_and_read();
    EXPECT_EQ(loop_->events(), before + 1);
}

TEST_F(Loop, IncidentsAreToldAndTheTraceGoesOn) {
    for (int i = 0; i < 30; i++) {
        kvm_views_event event{};
        event.type = i % 2 ? KVM_VIEWS_EVENT_ESCAPE : KVM_VIEWS_EVENT_BAD_VMFUNC;
        event.rip = 0xffffffff81000000;
        vm_->queue(event);
    }
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(50)), TraceEnd::time_over);
    EXPECT_EQ(loop_->incidents(), 30u);
    EXPECT_NE(notices_.find("outside the gate at 0xffffffff81000000"), std::string::npos);
    EXPECT_NE(notices_.find("further ones are only counted"), std::string::npos);
    EXPECT_EQ(lines(notices_, "vCPU"), 20u);
    finish_and_read();
}

/// A vCPU is expelled in the middle of an event.
TEST_F(Loop, SlotOfAnExpelledVcpuIsFreed) {
    ASSERT_TRUE(produce());
    slot()->claims = ring_->seq;
    slot()->busy = 1;
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_ESCAPE;
    event.rip = SM_COMPARTMENT_GVA + SM_TEXT_OFFSET + 0x10;
    event.arg = SM_COMPARTMENT_GVA + SM_SLOTS_OFFSET + SM_SLOT_STACK_TOP - 0x80;
    vm_->queue(event);
    EXPECT_EQ(loop_->run(3 * StraySlots::patience), TraceEnd::time_over);
    EXPECT_EQ(slot()->busy, 0u);
    EXPECT_EQ(session_->freed_slots(), 1u);
    EXPECT_EQ(loop_->incidents(), 2u);
    EXPECT_NE(notices_.find("its stack pointer was in slot 0"), std::string::npos) << notices_;
    EXPECT_NE(notices_.find("slot 0: the vCPU that held it was taken out"), std::string::npos)
        << notices_;
    ASSERT_TRUE(produce());
    EXPECT_EQ(lines(finish_and_read(), "\"pid\":42"), 2u + 1u);
}

TEST_F(Loop, SlotOfAVcpuThatIsExpelledAtTheEndIsFreed) {
    ask_to_stop();
    EXPECT_EQ(loop_->run({}, stop_.get()), TraceEnd::asked);
    slot()->claims++;
    slot()->busy = 1;
    const auto start = now_;
    finish_and_read();
    EXPECT_LT(now_ - start, std::chrono::seconds(4));
    EXPECT_EQ(slot()->busy, 0u);
}

TEST_F(Loop, SlotThatIsHeldIsNotFreed) {
    slot()->claims++;
    slot()->busy = 1;
    vm_->vcpus.back().view = KVM_VIEWS_SHADOW;
    EXPECT_EQ(loop_->run(3 * StraySlots::patience), TraceEnd::time_over);
    EXPECT_EQ(slot()->busy, 1u);
    EXPECT_EQ(notices_, "");
    slot()->busy = 0;
    finish_and_read();
}

TEST_F(Loop, VcpusThatCannotBeLookedAtDoNotEndTheTrace) {
    slot()->busy = 1;
    vm_->fail_with = {{KVM_VIEWS_GET_VCPU, EIO}};
    EXPECT_EQ(loop_->run(3 * StraySlots::patience), TraceEnd::time_over);
    EXPECT_EQ(lines(notices_, "look for slots that nobody holds"), 1u) << notices_;
    slot()->busy = 0;
    finish_and_read();
}

TEST_F(Loop, ChangedHookDoesNotStopTheDetach) {
    std::array<std::byte, 2> nops{std::byte{0x90}, std::byte{0x90}};
    vm_->memory.write(session_->hooks().request(0).gpa, nops);
    vm_->stats.undo_conflicts = 1;
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(10)), TraceEnd::time_over);
    finish_and_read();
    EXPECT_NE(notices_.find("the guest had changed 1 of the patched places"), std::string::npos)
        << notices_;
    EXPECT_EQ(vm_->count(KVM_VIEWS_DISABLE), 1u);
}

TEST_F(Loop, InterruptedDisableIsTold) {
    vm_->fail_with = {{KVM_VIEWS_DISABLE, EINTR}};
    EXPECT_EQ(loop_->run(std::chrono::milliseconds(10)), TraceEnd::time_over);
    EXPECT_TRUE(loop_->stop());
    auto finished = loop_->detach();
    ASSERT_FALSE(finished);
    EXPECT_EQ(finished.error().code(), EINTR);
    EXPECT_NE(notices_.find("still has a vCPU inside"), std::string::npos);
}

} // namespace
} // namespace shadowmon::test
