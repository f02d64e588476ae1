// SPDX-License-Identifier: GPL-2.0-or-later
// The command line as a user meets it: help, wrong usage, messages and exit codes of
// the program itself, and the texts it prints.
#include "cli/doctor_command.h"
#include "cli/exit_code.h"
#include "cli/explain_command.h"
#include "cli/hooks_command.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <map>
#include <sys/wait.h>
#include <unistd.h>

namespace shadowmon {
namespace {

struct Outcome {
    int code;
    std::string text; ///< standard output and standard error
};

Outcome run(const std::string& arguments) {
    std::string command = std::string(SM_PROGRAM) + " " + arguments + " 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    Outcome outcome{-1, {}};
    if (!pipe)
        return outcome;
    std::array<char, 4096> buffer;
    while (size_t n = fread(buffer.data(), 1, buffer.size(), pipe))
        outcome.text.append(buffer.data(), n);
    int status = pclose(pipe);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return outcome;
}

bool has(const Outcome& outcome, const char* text) {
    return outcome.text.find(text) != std::string::npos;
}

TEST(Program, HelpTeaches) {
    Outcome help = run("--help");
    EXPECT_EQ(help.code, exit_done);
    EXPECT_TRUE(has(help, "Examples:"));
    EXPECT_TRUE(has(help, "Exit codes:"));
    Outcome trace = run("trace --help");
    EXPECT_EQ(trace.code, exit_done);
    for (const char* option :
         {"--vm", "--monitor", "--format", "--output", "--on-full", "--ring-size", "--duration",
          "--hook", "--hook-limit", "--control", "--until-exit", "--summary", "--ready-fd",
          "--ready-file", "--system-map", "--vmlinux"})
        EXPECT_TRUE(has(trace, option)) << option;
    EXPECT_TRUE(has(run("doctor --help"), "--vm"));
    Outcome version = run("--version");
    EXPECT_EQ(version.code, exit_done);
    EXPECT_TRUE(has(version, "shadowmon 0."));
}

TEST(Program, WrongUsage) {
    static const std::map<const char*, const char*> cases = {
        {"", "subcommand"},
        {"frobnicate", "subcommand"},
        {"trace", "--vm"},
        {"trace --vm nonsense", "--vm"},
        {"trace --vm -3", "--vm"},
        {"trace --vm 1 --format xml", "--format"},
        {"trace --vm 1 --on-full maybe", "--on-full"},
        {"trace --vm 1 --place nowhere", "--place"},
        {"trace --vm 1 --monitor syscalls,keyboard", "there is no monitor \"keyboard\""},
        {"trace --vm 1 --monitor ''", "no monitor is named"},
        {"trace --vm 1 --hook-limit 0 --hook x", "--hook-limit"},
        {"explain vfs_read", "--vm"},
        {"explain --vm 1", "PLACE"},
        {"hooks", "subcommand"},
        {"hooks frobnicate", "subcommand"},
        {"hooks list", "--vm or --control"},
        {"hooks add --vm 1", "HOOK"},
        {"hooks add --vm 1 --limit 0 x", "--limit"},
        {"hooks list --vm 1 --limit 5", "--limit"},
        {"trace --vm 1 --ring-size 5000", "a power of two from 4K to 4M"},
        {"trace --vm 1 --ring-size 8M", "a power of two from 4K to 4M"},
        {"trace --vm 1 --duration -1", "--duration"},
        {"trace --vm 1 --duration nan", "--duration"},
        {"trace --vm 1 --duration 5 --until-exit", "exclude each other"},
        {"trace --vm 1 --system-map a --vmlinux b", "excludes"},
    };
    for (const auto& [arguments, text] : cases) {
        Outcome outcome = run(arguments);
        EXPECT_EQ(outcome.code, exit_usage) << arguments << ": " << outcome.text;
        EXPECT_TRUE(has(outcome, text)) << arguments << ": " << outcome.text;
    }
}

TEST(Program, NotAVmm) {
    std::string path = testing::TempDir() + "cli_test_output." + std::to_string(getpid());
    Outcome outcome =
        run("trace --ring-size 16K --vm " + std::to_string(getpid()) + " --output " + path);
    EXPECT_EQ(outcome.code, exit_failed);
    EXPECT_TRUE(has(outcome, "is not a VMM")) << outcome.text;
    EXPECT_NE(access(path.c_str(), F_OK), 0) << "the output was made for nothing";
}

/// Told before the VM is looked at.
TEST(Program, BadSymbolFile) {
    Outcome missing = run("trace --vm 4194305 --system-map /nowhere/System.map");
    EXPECT_EQ(missing.code, exit_failed);
    EXPECT_TRUE(has(missing, "open /nowhere/System.map: No such file")) << missing.text;
    Outcome not_a_map = run("trace --vm 4194305 --system-map " SM_PROGRAM);
    EXPECT_EQ(not_a_map.code, exit_failed);
    EXPECT_TRUE(has(not_a_map, "is no System.map: line 1 is")) << not_a_map.text;
    Outcome not_a_kernel = run("trace --vm 4194305 --vmlinux " SM_PROGRAM);
    EXPECT_EQ(not_a_kernel.code, exit_failed);
    EXPECT_TRUE(has(not_a_kernel, "no symbol")) << not_a_kernel.text;
}

TEST(Program, NoSuchProcess) {
    // Above any pid that the kernel gives out.
    Outcome outcome = run("trace --vm 4194305");
    EXPECT_EQ(outcome.code, exit_failed);
    EXPECT_TRUE(has(outcome, "there is no process")) << outcome.text;
}

TEST(Program, NoTraceToTalkTo) {
    Outcome outcome = run("hooks list --vm 4194305");
    EXPECT_EQ(outcome.code, exit_failed);
    EXPECT_TRUE(has(outcome, "no trace of that VM is running")) << outcome.text;
    EXPECT_EQ(run("hooks remove --control /nowhere/socket vfs_read").code, exit_failed);
}

TEST(RenderExplanation, ListsWhatIsThereAndWhatBecomesOfIt) {
    auto bytes = [](std::initializer_list<int> values) {
        std::vector<std::byte> out;
        for (int value : values)
            out.push_back(static_cast<std::byte>(value));
        return out;
    };
    Explanation e;
    e.address = Gva(0xffffffff81000005);
    e.symbol = "vfs_read";
    e.offset = 5;
    e.function_start = Gva(0xffffffff81000000);
    e.function_end = Gva(0xffffffff81000020);
    ListedInstruction nop{e.function_start, bytes({0x0f, 0x1f, 0x44, 0, 0}), "nop", "", true};
    ListedInstruction mov{e.address, bytes({0x48, 0x89, 0xe5}), "mov rbp, rsp", "", false};
    e.around = {nop, mov};
    e.displaced = {mov};
    e.gate = Gate::interrupt;
    e.pieces = {{true, Gva(0xffffffff40100010), {mov}}};
    std::string text = render_explanation(e);
    EXPECT_NE(text.find("vfs_read+0x5  (0xffffffff81000000..0xffffffff81000020)\n"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("  * 0xffffffff81000005  48 89 e5 "), std::string::npos) << text;
    EXPECT_NE(text.find("Can be hooked, by INT 20"), std::string::npos);
    EXPECT_NE(text.find("entered with interrupts on:\n"), std::string::npos);
    e.displaced.clear();
    e.refusal = "it cannot be hooked: no";
    text = render_explanation(e);
    EXPECT_NE(text.find("  > 0xffffffff81000005  48 89 e5 "), std::string::npos) << text;
    EXPECT_NE(text.find("it cannot be hooked: no\n"), std::string::npos);
    EXPECT_EQ(text.find("Can be hooked"), std::string::npos);
}

TEST(RenderHooks, TableAndNotes) {
    HookReply reply;
    EXPECT_EQ(render_hooks(reply), "");
    reply.hooks.resize(3);
    reply.hooks[0] = {7, "vfs_read\n", 0xffffffff81234567, "int20", "on", "", 10, 3, 2, 100};
    reply.hooks[1] = {8, "do_exit+0x2a", 0xffffffff81234568, "int20", "retired", "why", 0, 0, 0,
                      {}};
    reply.hooks[2] = {2048, "brd:*", 0, "", "pending", "why not", 0, 0, 0, {}};
    reply.notes = {"a note"};
    std::string text = render_hooks(reply);
    EXPECT_NE(text.find("    7 on      int20           15           10          3          2"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("0xffffffff81234567 vfs_read\\x0a\n"), std::string::npos) << text;
    EXPECT_NE(text.find("do_exit+0x2a (why)\n 2048 pending -                0"), std::string::npos)
        << text;
    EXPECT_NE(text.find(" -                  brd:* (why not)\na note\n"), std::string::npos)
        << text;
}

TEST(Program, DoctorTellsReadiness) {
    Outcome outcome = run("doctor");
    EXPECT_TRUE(outcome.code == exit_done || outcome.code == exit_host_lacks) << outcome.code;
    EXPECT_EQ(outcome.code == exit_done, has(outcome, "This host can watch VMs."));
    Outcome with_vm = run("doctor --vm " + std::to_string(getpid()));
    EXPECT_EQ(with_vm.code, exit_host_lacks);
    EXPECT_TRUE(has(with_vm, "is not a VMM"));
}

TEST(RenderChecks, AdviceAndVerdict) {
    using State = HostCheck::State;
    std::vector<HostCheck> checks = {
        {"CPU", "EPT", State::ok, "KVM says yes", ""},
        {"CPU", "#VE", State::optional, "KVM says no", "not needed"},
        {"KVM", "module kvm", State::missing, "not loaded", "modprobe kvm-intel"},
    };
    std::string text = render_checks(checks);
    EXPECT_NE(text.find("MISSING  module kvm"), std::string::npos) << text;
    EXPECT_NE(text.find("-> modprobe kvm-intel"), std::string::npos);
    EXPECT_NE(text.find("cannot watch VMs yet"), std::string::npos);
    checks.pop_back();
    EXPECT_NE(render_checks(checks).find("This host can watch VMs."), std::string::npos);
}

} // namespace
} // namespace shadowmon
