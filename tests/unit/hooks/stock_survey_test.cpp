// SPDX-License-Identifier: GPL-2.0-or-later
// Every instruction of a stock kernel's text: planned, displaced, and the displaced form read
// again; where instructions begin, against objdump; the kernel's tables, against its text.
#include "tests/unit/hooks/stock_kernel.h"

#include "abi/layout.h"
#include "src/hooks/code_head.h"
#include "src/hooks/kernel_tables.h"
#include "src/hooks/movable.h"
#include "src/hooks/survey.h"
#include "tests/unit/hooks/piece_reader.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

namespace shadowmon::test {
namespace {

constexpr Gva page(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET);

using StockSurvey = StockKernelHooks;

std::string first_refused(const HookPlanner& planner, Refusal refusal) {
    const CodeMap& map = planner.code().map;
    for (Gva at = map.start(); at < map.end(); at = at + 1)
        if (map.is_start(at) && planner.judge(at).refusal == refusal)
            return fmt::format("{} ({:#x})", planner.where(at), at.value);
    return "no place";
}

TEST_F(StockSurvey, EveryInstructionIsPlanned) {
    size_t longest = 0;
    size_t wrong = 0;
    auto begin = std::chrono::steady_clock::now();
    Survey result = survey(*planner_, page, [&](Gva at, const Displaced& displaced) {
        for (bool interrupts : {false, true}) {
            auto piece = displace(displaced, page, interrupts);
            longest = std::max(longest, piece->size());
            auto difference = read_piece(displaced, *piece, page, interrupts);
            if (!difference.empty() && wrong++ < 20)
                ADD_FAILURE() << planner_->where(at) << ": " << difference;
        }
    });
    auto took = std::chrono::steady_clock::now() - begin;
    std::printf("%s\n%slongest piece %zu bytes, %lld ms\n", kernel_->release.c_str(),
                result.table().c_str(), longest,
                static_cast<long long>(
                    std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
    EXPECT_EQ(wrong, 0u);
    EXPECT_LE(longest, max_piece_size);
    EXPECT_GT(result.instructions, 2'000'000u);
    EXPECT_GT(result.share(result.hookable), 95.0);
    uint64_t refused = 0;
    for (uint64_t count : result.refused)
        refused += count;
    EXPECT_EQ(result.hookable + refused, result.instructions);
    // What no stock kernel has.
    for (Refusal absent : {Refusal::out_of_reach, Refusal::hooked_already, Refusal::breakpoint})
        EXPECT_EQ(result.refused[static_cast<size_t>(absent)], 0u)
            << name(absent) << ", first at " << first_refused(*planner_, absent);
}

TEST_F(StockSurvey, QuickHeadsAreThoseOfZydis) {
    const CodeMap& map = planner_->code().map;
    size_t starts = 0, quick_starts = 0, wrong = 0;
    for (Gva at = map.start(); at < map.end(); at = at + 1) {
        auto rest = map.bytes(at, std::min(map.end(), at + 15));
        auto quick = read_head_quickly(rest);
        bool start = map.is_start(at) && rest[0] != std::byte{0xcc};
        starts += start;
        quick_starts += start && quick;
        // Also where no instruction begins.
        if (quick && quick != read_head_by_zydis(rest) && wrong++ < 20)
            ADD_FAILURE() << planner_->where(at);
    }
    std::printf("%.1f %% of %zu instructions are read quickly\n",
                100.0 * static_cast<double>(quick_starts) / static_cast<double>(starts), starts);
    EXPECT_GT(quick_starts, starts / 10 * 9);
}

TEST_F(StockSurvey, InstructionsBeginWhereObjdumpSeesThem) {
    if (std::system("objdump --version >/dev/null 2>&1") != 0)
        GTEST_SKIP() << "no objdump (apt-get install binutils)";
    const CodeMap& map = planner_->code().map;
    constexpr uint64_t size = 2 << 20;
    Gva start = symbol("do_one_initcall");
    auto bytes = map.bytes(start, start + size);
    std::string file = testing::TempDir() + "text." + std::to_string(getpid());
    FILE* out = fopen(file.c_str(), "wb");
    ASSERT_TRUE(out && fwrite(bytes.data(), 1, bytes.size(), out) == bytes.size());
    fclose(out);
    std::vector<bool> seen(size);
    FILE* pipe = popen(fmt::format("objdump -D -w --no-show-raw-insn -b binary -m i386:x86-64 "
                                   "--adjust-vma={:#x} {}",
                                   start.value, file)
                           .c_str(),
                       "r");
    char line[1024]; // one instruction
    while (pipe && fgets(line, sizeof(line), pipe))
        if (std::strstr(line, ":\t"))
            seen.at(std::strtoull(line, nullptr, 16) - start.value) = true;
    ASSERT_TRUE(pipe && pclose(pipe) == 0);
    unlink(file.c_str());
    // "xen" behind a UD2 is no code, which objdump does not know.
    auto xen = [&](Gva at) {
        auto before = map.start_around(at);
        auto trap = before ? map.instruction(*before) : std::nullopt;
        return trap && trap->info.mnemonic == ZYDIS_MNEMONIC_UD2 && at >= trap->end();
    };
    size_t different = 0;
    for (Gva at = start; at < start + size - 16; at = at + 1)
        if (at < map.function(at)->unclear_from && map.is_start(at) != seen[at - start] &&
            !xen(at) && different++ < 5)
            ADD_FAILURE() << planner_->where(at) << " begins here only by "
                          << (map.is_start(at) ? "us" : "objdump");
    EXPECT_EQ(different, 0u);
    EXPECT_GT(std::count(seen.begin(), seen.end(), true), static_cast<ptrdiff_t>(size / 8));
}

/// Where something leads is known although only what can matter was decoded: asked of maps that
/// know nothing yet, and held against every operand of the text as Zydis reads it.
TEST_F(StockSurvey, TargetsAreThoseOfTheWholeText) {
    const CodeMap& map = planner_->code().map;
    constexpr char yes = 'x';
    std::string led_to(map.end() - map.start(), '-');
    auto note = [&](Gva at) {
        if (map.contains(at))
            led_to[at - map.start()] = yes;
    };
    std::vector<Gva> entries;
    for (size_t n = 0; n < map.function_count(); n++) {
        entries.push_back(map.function_start(n));
        note(entries.back());
        const Function& function = map.function(n);
        for (Gva at = function.start; at < function.end;) {
            auto head =
                map.is_start(at) ? read_head_by_zydis(map.bytes(at, function.end)) : std::nullopt;
            at = at + (head ? head->length : 1);
            if (!head)
                continue;
            if (head->is_relative)
                note(at + static_cast<uint64_t>(head->relative));
            if (head->has_imm)
                note(Gva(head->imm));
            if (head->has_disp)
                note((head->disp_is_rip ? at : Gva(0)) + static_cast<uint64_t>(head->disp));
        }
    }
    auto bytes = map.bytes(map.start(), map.end());
    std::minstd_rand random(1);
    size_t targets = 0;
    for (int maps = 0; maps < 8; maps++) {
        CodeMap fresh(map.start(), {bytes.begin(), bytes.end()}, entries, {});
        for (int asked = 0; asked < 2000; asked++) {
            size_t at = random() % led_to.size();
            // Half of them: the next one that is a target, so that both kinds are many.
            if (asked % 2 == 0)
                at = led_to.find(yes, at);
            if (at == std::string::npos)
                continue;
            const bool expected = led_to[at] == yes;
            targets += expected;
            ASSERT_EQ(fresh.is_target(map.start() + at), expected)
                << planner_->where(map.start() + at);
        }
    }
    EXPECT_GT(targets, 8000u);
}

TEST_F(StockSurvey, TablesNameInstructions) {
    auto tables = read_kernel_tables(*kernel_, *memory_);
    ASSERT_TRUE(tables) << tables.error().message();
    const CodeMap& map = planner_->code().map;
    auto check = [&](Gva at, const char* table, auto&& fits) {
        // Of code for booting, or of a module; behind an instruction that Zydis does not know.
        if (!map.contains(at) || at >= map.function(at)->unclear_from)
            return;
        auto there = map.instruction(at);
        EXPECT_TRUE(there && fits(*there))
            << table << ": " << planner_->where(at) << (there ? " " + there->text() : "");
    };
    size_t keys = 0;
    size_t calls = 0;
    for (const auto& patched : tables->patched) {
        bool call = patched.why == Refusal::static_call;
        keys += patched.why == Refusal::static_key;
        calls += call;
        check(patched.at, name(patched.why), [&](const Instruction& i) {
            return (i.length() == 5 || (!call && i.length() == 2)) || (call && i.length() >= 5) ||
                   flow_of(i) == Flow::ret;
        });
    }
    for (Gva at : tables->may_fault)
        check(at, "exception table", [](const Instruction&) { return true; });
    EXPECT_GT(keys, 3'000u);
    EXPECT_GT(calls, 1'000u);
    EXPECT_GT(tables->ftrace_records, 30'000u);
    EXPECT_GT(tables->may_fault.size(), 300u);
    std::printf("%zu static keys, %zu static calls, %zu places of ftrace, %zu entries of the "
                "exception table\n",
                keys, calls, tables->ftrace_records, tables->may_fault.size());
}

/// Of the functions of which all is known.
TEST_F(StockSurvey, RefusalsAreTheRightOnes) {
    auto refusal = [&](Gva at) { return planner_->judge(at).refusal; };
    EXPECT_EQ(refusal(symbol("do_syscall_64")), Refusal::noinstr);
    EXPECT_EQ(refusal(symbol("entry_SYSCALL_64")), Refusal::entry_code);
    EXPECT_EQ(refusal(symbol("__x86_return_thunk")), Refusal::speculation);
    EXPECT_EQ(refusal(symbol("relocate_kernel")), Refusal::other_mappings);
    EXPECT_EQ(refusal(symbol("__SCT__might_resched")), Refusal::static_call);
    EXPECT_EQ(refusal(symbol("start_kernel")), Refusal::init_code);
    EXPECT_EQ(refusal(symbol("jiffies")), Refusal::not_kernel_text);
    EXPECT_EQ(refusal(symbol("_stext") - 0x1000), Refusal::not_kernel_text);
    EXPECT_EQ(refusal(Gva(0)), Refusal::not_kernel_text);

    Gva read = symbol("vfs_read");
    auto first = planner_->code().map.instruction(read);
    ASSERT_TRUE(first);
    bool marked = !is_nop(*first) || first->length() == 4;
    EXPECT_EQ(refusal(marked ? first->end() : read), Refusal::ftrace);
    EXPECT_EQ(refusal(read + 1), Refusal::inside_instruction);
    auto message = planner_->plan(read + 1);
    ASSERT_FALSE(message);
    EXPECT_NE(message.error().message().find(
                  fmt::format("vfs_read+0x1 cannot be hooked: it is inside an instruction (`{}` "
                              "begins at vfs_read, the next one, ",
                              first->text())),
              std::string::npos)
        << message.error().message();

    HookPlanner daring(*read_kernel_code(*kernel_, *memory_), {.noinstr = true}, &kernel_->symbols);
    EXPECT_EQ(daring.judge(symbol("do_syscall_64")).refusal, Refusal::none);
}

/// The first place in a function that can carry a hook.
Gva first_hookable(const HookPlanner& planner, Gva function) {
    while (planner.judge(function).refusal != Refusal::none)
        function = function + 1;
    return function;
}

TEST_F(StockSurvey, EndbrStaysUnderBranchTracking) {
    const CodeMap& map = planner_->code().map;
    HookPlanner tracked(*read_kernel_code(*kernel_, *memory_), {.branch_tracking = true},
                        &kernel_->symbols);
    size_t seen = 0;
    for (size_t n = 0; n < map.function_count(); n++) {
        const Gva start = map.function_start(n);
        auto first = map.instruction(start);
        if (!first || first->info.mnemonic != ZYDIS_MNEMONIC_ENDBR64 ||
            planner_->judge(start).refusal != Refusal::none)
            continue;
        EXPECT_EQ(tracked.judge(start).refusal, Refusal::endbr);
        if (++seen == 1000)
            break;
    }
    if (seen == 0)
        GTEST_SKIP() << "this kernel is built without ENDBR64";
}

TEST_F(StockSurvey, CoveredBytesAreSeenThrough) {
    // A hook of ours in vfs_read, and one that is not.
    Gva read = first_hookable(*planner_, symbol("vfs_read"));
    Gva write = first_hookable(*planner_, symbol("vfs_write"));
    auto original = planner_->plan(read);
    ASSERT_TRUE(original) << original.error().message();
    memory_->write(*kernel_->to_gpa(read), hook_bytes);
    memory_->write(*kernel_->to_gpa(write), hook_bytes);
    CoveredBytes covered{read, std::span(original->bytes).first(hook_bytes.size())};
    auto code = read_kernel_code(*kernel_, *memory_, std::span(&covered, 1));
    ASSERT_TRUE(code) << code.error().message();
    HookPlanner planner(std::move(*code), {}, &kernel_->symbols);
    auto again = planner.plan(read);
    ASSERT_TRUE(again) << again.error().message();
    EXPECT_EQ(again->bytes, original->bytes);
    EXPECT_EQ(planner.judge(write).refusal, Refusal::hooked_already);
    EXPECT_EQ(planner.judge(write + 0x40).refusal, Refusal::unclear_code);
}

} // namespace
} // namespace shadowmon::test
