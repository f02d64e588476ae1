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
    static constexpr uint32_t live = 0, coming = 1, going = 2; ///< enum module_state
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
        for (const HookStatus& hook : session_->list_hooks())
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
    ASSERT_EQ(vm_->batches.size(), 4u);
    size_t batch = 1;
    for (const char* function : {"free_module", "do_init_module"}) {
        EXPECT_EQ(vm_->batches[batch].size(), 1u) << "the guard";
        auto guard = session_->kernel().symbols.address(function);
        auto guard_gpa = session_->kernel().to_gpa(*guard);
        EXPECT_LT(vm_->batches[batch++][0].gpa - guard_gpa->value, 64u);
    }
    EXPECT_GE(vm_->batches[3].size(), 2u);
    EXPECT_GE(in_state("on"), 2u);
    EXPECT_NE(text_, plain_text());
    for (const HookStatus& hook : session_->hooks().list())
        EXPECT_EQ(hook.name.find("_module"), std::string::npos);
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
    set_state(going);
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(100)), TraceEnd::time_over);
    EXPECT_EQ(vm_->resumed, std::vector<uint32_t>{1});
    EXPECT_EQ(at_resume, plain_text()) << "nothing of the monitor is left when it goes on";
    EXPECT_EQ(in_state("pending"), 2u) << "by name";
    EXPECT_EQ(session_->list_hooks().size(), 3u);
    EXPECT_NE(notices_.find("module msr was unloaded: 2 hooks are pending"), std::string::npos)
        << notices_;
    auto reply = ask(HookCommand::Verb::add, {"msr:msr_read"});
    EXPECT_NE(reply.notes.at(0).find("being loaded or unloaded"), std::string::npos);
    EXPECT_EQ(in_state("pending"), 2u) << "it is already";
    EXPECT_TRUE(ask(HookCommand::Verb::enable, {"msr:*"}).error.empty());
    EXPECT_EQ(text(), plain_text());
    EXPECT_EQ(retired_events(), hooks);
}

/// To the same place, before any of it runs.
TEST_F(ModuleHooks, ComeBackWithTheModule) {
    size_t hooks = in_state("on");
    for (unsigned times = 0; times < 3; times++) {
        set_state(going);
        vcpu_waits();
        EXPECT_EQ(loop_->run(milliseconds(60)), TraceEnd::time_over);
        EXPECT_EQ(text(), plain_text());
        std::vector<std::byte> at_resume;
        vm_->on_resume = [&] { at_resume = text(); };
        set_state(coming);
        vcpu_waits();
        EXPECT_EQ(loop_->run(milliseconds(60)), TraceEnd::time_over);
        EXPECT_EQ(at_resume, text_) << "before it goes on";
        vm_->on_resume = [] {};
        EXPECT_EQ(in_state("on"), hooks);
        EXPECT_EQ(session_->list_hooks().size(), hooks + 1) << "nothing is left of the old ones";
        EXPECT_EQ(loop_->run(milliseconds(1200)), TraceEnd::time_over);
        EXPECT_EQ(in_state("on"), hooks) << "also while it is being initialized";
        set_state(live);
    }
    EXPECT_NE(notices_.find(fmt::format("module msr was loaded: {} hooks are in place", hooks)),
              std::string::npos)
        << notices_;
    EXPECT_EQ(retired_events(), 3 * hooks);
    EXPECT_EQ(text(), plain_text());
}

TEST_F(ModuleHooks, WaitForAModuleThatIsNamed) {
    ASSERT_TRUE(ask(HookCommand::Verb::remove, {"*"}).error.empty());
    for (const char* word : {"brd:brd_submit_bio", "brd:*", "not-there:f+0x10"}) {
        auto reply = ask(HookCommand::Verb::add, {word});
        EXPECT_TRUE(reply.error.empty()) << reply.error;
        ASSERT_EQ(reply.hooks.size(), 1u) << word;
        EXPECT_EQ(reply.hooks[0].state, "pending");
        EXPECT_EQ(reply.hooks[0].name, word);
        EXPECT_NE(reply.notes.at(0).find("is not loaded in the guest; "), std::string::npos);
    }
    auto unknown = ask(HookCommand::Verb::add, {"brd_submit_bio"});
    EXPECT_NE(unknown.error.find("has to be named: MODULE:brd_submit_bio"), std::string::npos)
        << unknown.error;
    EXPECT_FALSE(ask(HookCommand::Verb::add, {"br?:brd_submit_bio"}).error.empty());
    EXPECT_FALSE(ask(HookCommand::Verb::add, {"msr:msr_raed"}).error.empty());

    EXPECT_EQ(ask(HookCommand::Verb::list, {"brd:*"}).hooks.size(), 2u);
    auto all = ask(HookCommand::Verb::list).hooks;
    ASSERT_EQ(all.size(), 3u);
    auto one = ask(HookCommand::Verb::remove, {std::to_string(all[2].id)});
    ASSERT_EQ(one.hooks.size(), 1u) << one.error;
    EXPECT_EQ(one.hooks[0].state, "gone");
    EXPECT_EQ(ask(HookCommand::Verb::remove, {"brd:*"}).hooks.size(), 2u);
    EXPECT_TRUE(ask(HookCommand::Verb::list).hooks.empty());
}

TEST_F(ModuleHooks, AreToldIfTheyCannotBePutIn) {
    ASSERT_TRUE(ask(HookCommand::Verb::remove, {"*"}).error.empty());
    set_state(going);
    ASSERT_EQ(ask(HookCommand::Verb::add, {"msr:msr_raed", "msr:msr_read+1", "msr:msr_read"})
                  .hooks.size(),
              3u);
    // Its first place was only just left.
    EXPECT_EQ(loop_->run(milliseconds(60)), TraceEnd::time_over);
    set_state(coming);
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(1200)), TraceEnd::time_over);
    EXPECT_EQ(vm_->resumed, std::vector<uint32_t>{1});
    EXPECT_EQ(in_state("on"), 1u);
    EXPECT_EQ(in_state("pending"), 2u);
    EXPECT_NE(notices_.find("msr:msr_raed stays pending: "), std::string::npos) << notices_;
    EXPECT_EQ(lines(notices_, "stays pending"), 2u) << "once for each";
    auto list = ask(HookCommand::Verb::list, {"msr:msr_raed"}).hooks;
    EXPECT_NE(list.at(0).note.find("no function"), std::string::npos) << list.at(0).note;
}

TEST_F(ModuleHooks, ThatAreDisabledGoOnWaiting) {
    ASSERT_TRUE(ask(HookCommand::Verb::disable, {"msr:*"}).error.empty());
    set_state(going);
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(60)), TraceEnd::time_over);
    set_state(live);
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(1200)), TraceEnd::time_over);
    EXPECT_EQ(in_state("pending"), 2u);
    EXPECT_EQ(text(), plain_text());
    auto reply = ask(HookCommand::Verb::enable, {"msr:*"});
    EXPECT_TRUE(reply.error.empty()) << reply.error;
    EXPECT_EQ(in_state("pending"), 0u);
    EXPECT_EQ(text(), text_);
    EXPECT_EQ(reply.hooks.size(), in_state("on"));
}

TEST_F(ModuleHooks, ComeALittleLateIfNobodyTells) {
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_OVERWRITTEN;
    event.gpa = vm_->batches[2][0].gpa;
    vm_->queue(event);
    set_state(going);
    vcpu_waits();
    EXPECT_EQ(loop_->run(milliseconds(60)), TraceEnd::time_over);
    EXPECT_NE(notices_.find("the guest has changed the place that tells of loading"),
              std::string::npos)
        << notices_;
    EXPECT_EQ(in_state("pending"), 2u);
    set_state(coming);
    EXPECT_EQ(loop_->run(milliseconds(1200)), TraceEnd::time_over);
    EXPECT_EQ(in_state("pending"), 2u) << "not known to be ready";
    set_state(live);
    EXPECT_EQ(loop_->run(milliseconds(1200)), TraceEnd::time_over);
    EXPECT_EQ(in_state("pending"), 0u);
    EXPECT_EQ(text(), text_);
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
    EXPECT_EQ(in_state("pending"), 2u) << "those that are off, too";
    EXPECT_EQ(retired_events(), hooks);
}

TEST_F(ModuleHooks, GoWithTheGuard) {
    size_t hooks = in_state("on");
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_OVERWRITTEN;
    event.gpa = vm_->batches[1][0].gpa;
    vm_->queue(event);
    EXPECT_EQ(loop_->run(milliseconds(100)), TraceEnd::time_over);
    EXPECT_EQ(in_state("pending"), 2u);
    EXPECT_EQ(text(), plain_text());
    EXPECT_NE(notices_.find("the guest has changed the place that tells of unloading"),
              std::string::npos)
        << notices_;
    EXPECT_EQ(retired_events(), hooks);
}

/// The kernel puts a breakpoint first when it writes a CALL where ftrace's NOP was.
TEST_F(ModuleHooks, GoOnBesideTheNopThatTheGuestWritesTo) {
    ASSERT_TRUE(ask(HookCommand::Verb::remove, {"*"}).error.empty());
    ASSERT_TRUE(ask(HookCommand::Verb::add, {"msr:msr_open", "msr:msr_write"}).error.empty());
    std::vector<uint32_t> called = *session_->hooks().select({"msr:*"});
    ASSERT_EQ(called.size(), 2u);
    for (uint32_t id : called) {
        const HookRequest& hook = session_->hooks().request(id);
        ASSERT_EQ(hook.displaced.gate, Gate::call);
        // Its own bytes first: the kernel takes the hook away.
        vm_->memory.write(hook.gpa, hook.original);
        vm_->memory.write(hook.gpa, std::array{std::byte{0xcc}});
        kvm_views_event event{};
        event.type = KVM_VIEWS_EVENT_OVERWRITTEN;
        event.gpa = hook.gpa.value;
        vm_->queue(event);
    }
    EXPECT_EQ(loop_->run(milliseconds(60)), TraceEnd::time_over);
    EXPECT_EQ(in_state("retired"), 2u);
    EXPECT_EQ(in_state("on"), 2u) << notices_;
    for (const HookStatus& hook : session_->list_hooks()) {
        if (hook.state != "on")
            continue;
        EXPECT_EQ(hook.gate, "int20");
        const HookRequest& now = session_->hooks().request(hook.id);
        bool beside = false;
        for (uint32_t id : called) {
            const HookRequest& before = session_->hooks().request(id);
            const Gva nop = before.displaced.address(), at = now.displaced.address();
            beside |= before.name == now.name &&
                      (at >= nop + before.original.size() ? at < nop + 64
                                                          : at + now.original.size() <= nop);
        }
        EXPECT_TRUE(beside) << hook.name;
    }
    EXPECT_EQ(lines(notices_, "it goes on at"), 2u) << notices_;
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
