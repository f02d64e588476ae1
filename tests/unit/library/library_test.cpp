// SPDX-License-Identifier: GPL-2.0-or-later
// The public library as far as it goes without a VM: what it says to bad input.
#include <shadowmonitor/doctor.h>
#include <shadowmonitor/escape.h>
#include <shadowmonitor/monitor.h>
#include <shadowmonitor/output.h>

#include <gtest/gtest.h>

#include <set>
#include <unistd.h>

namespace shadowmon {
namespace {

constexpr int no_process = 4194305; // above any pid that the kernel gives out

bool says(const Error& error, const char* text) {
    return error.message().find(text) != std::string::npos;
}

TEST(Vm, NoSuchProcess) {
    auto vm = Vm::open(no_process);
    ASSERT_FALSE(vm);
    EXPECT_TRUE(says(vm.error(), "there is no process 4194305")) << vm.error().message();
}

TEST(Vm, NotAVmm) {
    auto vm = Vm::open(getpid());
    ASSERT_FALSE(vm);
    EXPECT_TRUE(says(vm.error(), "is not a VMM")) << vm.error().message();
}

TEST(Options, RingSizes) {
    Options options;
    EXPECT_TRUE(options.check());
    for (uint64_t good : {Options::min_ring_size, Options::max_ring_size}) {
        options.ring_size = good;
        EXPECT_TRUE(options.check()) << good;
    }
    for (uint64_t bad :
         {uint64_t{0}, uint64_t{2048}, uint64_t{5000}, uint64_t{8} << 20, uint64_t{1} << 44}) {
        options.ring_size = bad;
        auto status = options.check();
        ASSERT_FALSE(status) << bad;
        EXPECT_TRUE(says(status.error(), "a power of two from 4K to 4M")) << bad;
    }
}

TEST(Options, ALimitOfNothing) {
    Options options;
    options.hook_limit = 0;
    EXPECT_FALSE(options.check());
    options.hook_limit = 1;
    EXPECT_TRUE(options.check());
}

/// Told before the process is looked at.
TEST(Monitor, BadOptions) {
    Options options;
    options.ring_size = 5000;
    auto monitor = Monitor::attach(no_process, options, {});
    ASSERT_FALSE(monitor);
    EXPECT_TRUE(says(monitor.error(), "a ring of 5000 bytes")) << monitor.error().message();
}

TEST(Monitor, NoSuchProcess) {
    auto monitor = Monitor::attach(no_process, {}, {});
    ASSERT_FALSE(monitor);
    EXPECT_TRUE(says(monitor.error(), "there is no process")) << monitor.error().message();
}

TEST(Symbols, NoFile) {
    auto map = read_system_map("/nowhere/System.map");
    ASSERT_FALSE(map);
    EXPECT_EQ(map.error().code(), ENOENT);
    EXPECT_TRUE(says(map.error(), "/nowhere/System.map"));
    EXPECT_FALSE(read_vmlinux("/proc/self/exe")) << "a program is no kernel";
}

TEST(MonitorSet, Names) {
    auto set = MonitorSet::parse("irq,syscalls");
    ASSERT_TRUE(set);
    EXPECT_TRUE(set->irq && set->syscalls && !set->switches);
    auto bad = MonitorSet::parse("keyboard");
    ASSERT_FALSE(bad);
    EXPECT_TRUE(says(bad.error(), "there are: syscalls, switches, irq"));
}

TEST(Commands, NobodyListens) {
    auto reply = send_command("/nowhere/socket", {HookCommand::Verb::list, {}, {}});
    EXPECT_FALSE(reply);
    EXPECT_NE(control_path(4711).find("4711"), std::string::npos);
}

TEST(Output, NoSuchFolder) {
    auto output = open_output(OutputFormat::kJson, "/nowhere/events");
    ASSERT_FALSE(output);
    EXPECT_TRUE(says(output.error(), "/nowhere/events")) << output.error().message();
}

TEST(Doctor, SaysWhatIsThere) {
    auto checks = probe_host();
    EXPECT_FALSE(checks.empty());
    checks = probe_host(no_process);
    EXPECT_FALSE(host_is_ready(checks)) << "there is no such VM";
}

TEST(Event, EveryTypeHasAName) {
    std::set<std::string_view> names;
    for (unsigned type = 0; type < event_types; type++)
        EXPECT_TRUE(names.insert(event_type_name(type)).second) << type;
    EXPECT_EQ(event_type_name(event_types), "type_unknown");
}

TEST(Comm, EndsAtTheFirstNul) {
    Comm comm;
    EXPECT_EQ(comm.view(), "");
    comm.bytes = {'a', '\n', 0, 'x'};
    EXPECT_EQ(comm.view(), std::string_view("a\n"));
    EXPECT_EQ(escape(comm.view(), true), "a\\x0a");
    comm.bytes.fill('z');
    EXPECT_EQ(comm.view().size(), 16u) << "no NUL at all";
}

} // namespace
} // namespace shadowmon
