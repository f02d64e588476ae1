// SPDX-License-Identifier: GPL-2.0-or-later
//
// The memory of a stock Debian guest, from make_image.sh, against what that guest
// said about itself: every symbol of its /proc/kallsyms, its /proc/version, its BTF
// as bpftool and pahole read it. SM_GUEST_IMAGE names the folder.
#include "src/guest/kernel_info.h"

#include "tests/unit/guest/image_file.h"

#include <gtest/gtest.h>

#include <chrono>
#include <sstream>

namespace shadowmon::test {
namespace {

class StockKernel : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        if (GuestImage::folder().empty())
            GTEST_SKIP() << "SM_GUEST_IMAGE is not set";
        guest_.emplace(GuestImage::folder());
        memory_.emplace(guest_->path(std::string(GetParam()) + ".mem"));
        cpus_ = guest_->cpus(GetParam());
        ASSERT_EQ(cpus_.size(), 2u);
    }

    std::optional<GuestImage> guest_;
    std::optional<ImageFile> memory_;
    std::vector<CpuState> cpus_;
};

TEST_P(StockKernel, EverySymbolIsTheGuestsOwn) {
    auto image = find_kernel_image(*memory_, cpus_[0]);
    ASSERT_TRUE(image) << image.error().message();
    auto symbols = Kallsyms::find(*memory_, *image);
    ASSERT_TRUE(symbols) << symbols.error().message();

    std::istringstream truth(guest_->text("kallsyms"));
    std::string line;
    size_t count = 0;
    while (std::getline(truth, line)) {
        if (line.find('[') != std::string::npos)
            break; // modules come after the kernel
        ASSERT_LT(count, symbols->size()) << line;
        Symbol symbol = (*symbols)[count];
        ASSERT_EQ(fmt::format("{:016x} {} {}", symbol.value, symbol.type, symbol.name), line);
        ++count;
    }
    EXPECT_EQ(count, symbols->size());
    EXPECT_GT(count, 50'000u);
    std::cout << count << " symbols, _text " << fmt::format("{:#x}", image->start.value) << "\n";
}

TEST_P(StockKernel, IsInspectedFromEveryCpu) {
    for (const CpuState& cpu : cpus_) {
        uint64_t bytes = memory_->bytes_read, reads = memory_->reads, chunks = memory_->chunks;
        auto begin = std::chrono::steady_clock::now();
        auto info = inspect_kernel(*memory_, cpu);
        auto took = std::chrono::steady_clock::now() - begin;
        ASSERT_TRUE(info) << info.error().message();
        EXPECT_EQ(info->banner + "\n", guest_->text("version"));
        std::cout << fmt::format(
            "{}: CR3 {:#x} -> {:#x}, direct map {:#x}, {} windows, {} parts, read {} KiB in {} "
            "calls ({} of at most 1 MiB), {} ms\n",
            info->release, cpu.cr3, info->image.page_tables.value, info->image.direct_map.value,
            info->image.windows.size(), info->image.parts.size(),
            (memory_->bytes_read - bytes) >> 10, memory_->reads - reads, memory_->chunks - chunks,
            std::chrono::duration_cast<std::chrono::milliseconds>(took).count());
    }
}

/// Follows the offsets as the payload does: from GS base to the running task.
TEST_P(StockKernel, OffsetsLeadToTheRunningTask) {
    std::vector<Gva> tasks;
    for (const CpuState& cpu : cpus_) {
        auto info = inspect_kernel(*memory_, cpu);
        ASSERT_TRUE(info) << info.error().message();
        VirtualMemory kernel(info->image.tables(*memory_));
        auto task =
            kernel.read_value<uint64_t>(info->image.percpu_base + info->offsets.current_task);
        ASSERT_TRUE(task) << task.error().message();
        auto comm = kernel.read_string(Gva(*task) + info->offsets.task_comm, 16);
        auto pid = kernel.read_value<uint32_t>(Gva(*task) + info->offsets.task_pid);
        auto cred = kernel.read_value<uint64_t>(Gva(*task) + info->offsets.task_cred);
        auto parent = kernel.read_value<uint64_t>(Gva(*task) + info->offsets.task_real_parent);
        auto state = kernel.read_value<uint32_t>(Gva(*task) + info->offsets.task_state);
        ASSERT_TRUE(comm && pid && cred && parent && state);
        auto uid = kernel.read_value<uint32_t>(Gva(*cred) + info->offsets.cred_uid);
        auto parent_comm = kernel.read_string(Gva(*parent) + info->offsets.task_comm, 16);
        ASSERT_TRUE(uid && parent_comm);
        EXPECT_EQ(*uid, 0u);
        EXPECT_EQ(*state, 0u); // running
        unsigned index = static_cast<unsigned>(tasks.size());
        if (GetParam() == std::string("idle")) {
            EXPECT_EQ(*comm, fmt::format("swapper/{}", index));
            EXPECT_EQ(*pid, 0u);
            // The first CPU's idle task is its own parent; init forked the other's.
            EXPECT_EQ(*parent_comm, index == 0 ? "swapper/0" : "init");
        } else {
            EXPECT_EQ(*comm, "init"); // the shell's children, which compute
            EXPECT_GT(*pid, 1u);
            EXPECT_EQ(*parent_comm, "init");
        }
        auto area = info->percpu_area(*memory_, index);
        ASSERT_TRUE(area) << area.error().message();
        EXPECT_EQ(area->value, info->image.percpu_base.value);
        tasks.push_back(Gva(*task));
    }
    EXPECT_NE(tasks[0], tasks[1]);
}

TEST_P(StockKernel, AddressesHoldWhatTheyShould) {
    auto info = inspect_kernel(*memory_, cpus_[1]);
    ASSERT_TRUE(info) << info.error().message();
    auto top = info->symbols.address("init_top_pgt");
    ASSERT_TRUE(top) << top.error().message();
    EXPECT_EQ(info->image.page_tables, *info->to_gpa(*top));
    const PageTables tables = info->image.tables(*memory_);
    auto by_walk = tables.walk(info->idt);
    auto by_sum = info->to_gpa(info->idt);
    ASSERT_TRUE(by_walk && by_sum);
    EXPECT_EQ(by_walk->gpa, *by_sum);
    EXPECT_EQ(info->idt_gpa, *by_sum);

    // Every byte of every window is mapped, and where arithmetic says.
    auto windows = info->windows();
    ASSERT_GE(windows.size(), 2u);
    ASSERT_LE(windows.size(), static_cast<size_t>(SM_MAX_WINDOWS));
    for (const sm_window& window : windows) {
        for (uint64_t at = window.start; at < window.start + window.size; at += 0x1000) {
            auto seen = tables.walk(Gva(at));
            auto gpa = info->to_gpa(Gva(at));
            ASSERT_TRUE(seen) << seen.error().message();
            ASSERT_TRUE(gpa) << gpa.error().message();
            ASSERT_EQ(seen->gpa, *gpa);
        }
    }

    auto syscall = info->symbols.address("entry_SYSCALL_64");
    ASSERT_TRUE(syscall) << syscall.error().message();
    EXPECT_EQ(syscall->value, cpus_[1].lstar);
    auto entry = info->symbols.find_by_address(*syscall + 3);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->value, syscall->value);
    EXPECT_GT(info->symbols.next_address(*syscall)->value, syscall->value);
    EXPECT_GT(info->symbols.find_all("__func__").size() +
                  info->symbols.find_all("cleanup_module").size() +
                  info->symbols.find_all("type_show").size(),
              2u);
    EXPECT_FALSE(info->symbols.find("no_such_symbol"));
    EXPECT_FALSE(info->symbols.address("__per_cpu_start"));
    for (const char* name : {"do_syscall_64", "syscall_exit_to_user_mode", "__switch_to"})
        EXPECT_TRUE(info->symbols.address(name)) << name;
}

INSTANTIATE_TEST_SUITE_P(Snapshots, StockKernel, testing::Values("idle", "user"),
                         [](const auto& info) { return std::string(info.param); });

} // namespace
} // namespace shadowmon::test
