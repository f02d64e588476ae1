// SPDX-License-Identifier: GPL-2.0-or-later
// Hooks in a module of a stock guest, and what becomes of them when it goes. The images have msr.ko
// loaded.
#include "src/session/trace_loop.h"

#include "src/guest/modules.h"
#include "tests/unit/session/traced_vm.h"

#include <gtest/gtest.h>

namespace shadowmon::test {
namespace {

using std::chrono::milliseconds;

class ModuleHooks : public TracedVm {
  protected:
    void SetUp() override {
        Options options;
        options.hooks = {"msr:msr_read", "msr:msr_read%return", "vfs_write"};
        arm(options);
        if (!session_)
            return;
        const KernelInfo& kernel = session_->kernel();
        auto modules = read_modules(kernel, vm_->memory);
        auto layout = ModuleLayout::of(kernel.btf);
        ASSERT_TRUE(modules && layout && modules->find("msr"));
        msr_ = *modules->find("msr");
        auto state = kernel.image.tables(vm_->memory).walk(msr_.object + layout->state);
        ASSERT_TRUE(state);
        state_ = state->gpa;
        text_ = text();
        open_output();
    }

    std::vector<std::byte> text() {
        std::vector<std::byte> bytes(msr_.text.size);
        VirtualMemory memory(session_->kernel().image.tables(vm_->memory));
        EXPECT_TRUE(memory.read(msr_.text.start, bytes));
        return bytes;
    }
    /// As in the file, without hooks.
    std::vector<std::byte> plain_text() {
        ImageFile file(vm_->guest.path("idle.mem"));
        std::vector<std::byte> bytes(msr_.text.size);
        EXPECT_TRUE(
            VirtualMemory(session_->kernel().image.tables(file)).read(msr_.text.start, bytes));
        return bytes;
    }
    void set_state(uint32_t state) {
        vm_->memory.write(state_, std::as_bytes(std::span(&state, 1)));
    }
    void vcpu_waits() {
        kvm_views_event event{};
        event.type = KVM_VIEWS_EVENT_CALL;
        event.vcpu_id = 1;
        event.arg = SM_CALL_HOLD;
        vm_->queue(event);
    }
    HookReply ask(HookCommand::Verb verb, std::vector<std::string> hooks = {}) {
        HookCommand command;
        command.verb = verb;
        command.hooks = std::move(hooks);
        return session_->answer(command, [] {});
    }
    /// How many of the module's hooks are in that state.
    size_t in_state(const std::string& state) {
        size_t n = 0;
        for (const HookStatus& hook : session_->hooks().list())
            n += hook.name.starts_with("msr:") && hook.state == state;
        return n;
    }
    size_t retired_events() {
        std::istringstream in(finish_and_read());
        size_t n = 0;
        for (std::string line; std::getline(in, line);)
            n += line.find("\"kind\":\"hook_retired\",\"hook\":\"msr:msr_read") !=
                     std::string::npos &&
                 line.find("\"reason\":") != std::string::npos;
        return n;
    }

    GuestModule msr_;
    Gpa state_;
    std::vector<std::byte> text_; ///< with the hooks
};

TEST_F(ModuleHooks, AreWrittenOnceTheirEndWillBeSeen) {
    ASSERT_EQ(vm_->batches.size(), 3u);
    EXPECT_EQ(vm_->batches[1].size(), 1u) << "the guard";
    auto guard = session_->kernel().symbols.address("free_module");
    auto guard_gpa = session_->kernel().to_gpa(*guard);
    EXPECT_LT(vm_->batches[1][0].gpa - guard_gpa->value, 32u);
    EXPECT_GE(vm_->batches[2].size(), 2u);
    EXPECT_GE(in_state("on"), 2u);
    EXPECT_NE(text_, plain_text());
    for (const HookStatus& hook : session_->hooks().list())
        EXPECT_EQ(hook.name.find("free_module"), std::string::npos);
    EXPECT_NE(log_.find("in msr:msr_read at"), std::string::npos) << log_;
    // All of it goes with the trace.
    EXPECT_EQ(loop_->run(milliseconds(20)), TraceEnd::time_over);
    EXPECT_EQ(retired_events(), 0u);
    EXPECT_EQ(text(), plain_text());
}

TEST_F(ModuleHooks, GoBeforeTheModuleDoes) {
    size_t hooks = in_state("on");
    std::vector<std::byte> at_resume;
    vm_->on_resume = [&] { at_resume = text(); };
    set_state(2);
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(100)), TraceEnd::time_over);
    EXPECT_EQ(vm_->resumed, std::vector<uint32_t>{1});
    EXPECT_EQ(at_resume, plain_text()) << "nothing of the monitor is left when it goes on";
    EXPECT_EQ(in_state("retired"), hooks);
    EXPECT_NE(notices_.find("module msr was unloaded: "), std::string::npos) << notices_;
    auto reply = ask(HookCommand::Verb::add, {"msr:msr_read"});
    EXPECT_NE(reply.error.find("being loaded or unloaded"), std::string::npos) << reply.error;
    EXPECT_TRUE(ask(HookCommand::Verb::enable, {"msr:*"}).error.empty());
    EXPECT_EQ(text(), plain_text());

    // It comes again to the same place.
    set_state(0);
    reply = ask(HookCommand::Verb::add, {"msr:msr_read"});
    EXPECT_TRUE(reply.error.empty()) << reply.error;
    EXPECT_EQ(in_state("on"), 1u);
    EXPECT_NE(text(), plain_text());
    EXPECT_EQ(retired_events(), hooks);
}

TEST_F(ModuleHooks, StayWhenAnotherModuleGoes) {
    size_t hooks = in_state("on");
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(100)), TraceEnd::time_over);
    EXPECT_EQ(vm_->resumed, std::vector<uint32_t>{1});
    EXPECT_EQ(in_state("on"), hooks);
    EXPECT_EQ(text(), text_);
    EXPECT_EQ(retired_events(), 0u);
}

TEST_F(ModuleHooks, GoAlsoIfNobodyTells) {
    size_t hooks = in_state("on");
    ASSERT_TRUE(ask(HookCommand::Verb::disable, {"msr:msr_read"}).error.empty());
    set_state(3);
    EXPECT_EQ(loop_->run(milliseconds(1300)), TraceEnd::time_over);
    EXPECT_EQ(in_state("retired"), hooks) << "those that are off, too";
    EXPECT_EQ(retired_events(), hooks);
}

TEST_F(ModuleHooks, GoWithTheGuard) {
    size_t hooks = in_state("on");
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_OVERWRITTEN;
    event.gpa = vm_->batches[1][0].gpa;
    vm_->queue(event);
    EXPECT_EQ(loop_->run(milliseconds(100)), TraceEnd::time_over);
    EXPECT_EQ(in_state("retired"), hooks);
    EXPECT_EQ(text(), plain_text());
    EXPECT_NE(notices_.find("the guest has changed the place that tells of unloading"),
              std::string::npos)
        << notices_;
    EXPECT_EQ(retired_events(), hooks);
}

/// What passes while a hook is planned may have been its module, loaded again meanwhile.
TEST_F(ModuleHooks, ArePlannedAnewIfAModulePassesMeanwhile) {
    HookCommand command;
    command.verb = HookCommand::Verb::remove;
    command.hooks = {"*"};
    ASSERT_TRUE(ask(command.verb, command.hooks).error.empty());
    size_t reads = 0;
    auto plan = [&](bool passes) {
        uint64_t before = vm_->memory.reads;
        bool once = passes;
        command.verb = HookCommand::Verb::add;
        // Its place is still being left by the hook that was there: that is waited for.
        command.hooks = {"msr:msr_read"};
        auto reply = session_->answer(command, [&] {
            if (std::exchange(once, false))
                vcpu_waits();
            EXPECT_TRUE(session_->take_events());
            EXPECT_TRUE(session_->resume_parked());
            session_->tick();
        });
        EXPECT_TRUE(reply.error.empty()) << reply.error;
        EXPECT_EQ(in_state("on"), 1u);
        EXPECT_TRUE(ask(HookCommand::Verb::remove, {"*"}).error.empty());
        return vm_->memory.reads - before;
    };
    reads = plan(false);
    EXPECT_GT(plan(true), reads + reads / 2) << "its code was read twice";
}

} // namespace
} // namespace shadowmon::test
