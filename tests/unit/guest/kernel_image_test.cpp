// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/kernel_image.h"

#include "src/guest/kernel_info.h"
#include "tests/unit/guest/synthetic.h"

#include <gtest/gtest.h>

#include <cstring>

namespace shadowmon::test {
namespace {

constexpr Gva text_base{0xffffffff9a600000};
constexpr Gva direct_map_base{0xffff9d1040000000};
constexpr uint64_t ram_size = 64 << 20;

/// A kernel of three 2 MiB pages at 16 MiB, and a direct map of all RAM.
class KernelImageTest : public testing::Test {
  protected:
    KernelImageTest() : memory_(ram_size) {
        root_ = memory_.new_page();
        if (root_.value & 0x1000)
            root_ = memory_.new_page(); // the lower half of a pair
        user_root_ = memory_.new_page();
        map(text_base, Gpa(0x1000000), 0);
        map(text_base + 0x200000, Gpa(0x1200000), NoExecute);
        map(text_base + 0x600000, Gpa(0x1600000), NoExecute | Writable); // a hole before it
        for (uint64_t at = 0; at < ram_size; at += 0x200000)
            map(direct_map_base + at, Gpa(at), NoExecute | Writable);
        memory_.map(user_root_, 4, text_base, Gpa(0x1000000), 2, 0);

        cpu_.cr0 = 0x80050033;
        cpu_.cr3 = root_.value;
        cpu_.cr4 = 0x750ef0;
        cpu_.efer = 0xd01;
        cpu_.lstar = text_base.value + 0x80;
        cpu_.idt_base = 0xfffffe0000000000;
        cpu_.gs_base = direct_map_base.value + 0x3e00000;
    }
    void map(Gva gva, Gpa gpa, uint64_t flags) { memory_.map(root_, 4, gva, gpa, 2, flags); }

    void expect_error(int code, const std::string& text) {
        auto image = find_kernel_image(memory_, cpu_);
        ASSERT_FALSE(image) << text;
        EXPECT_EQ(image.error().code(), code);
        EXPECT_NE(image.error().message().find(text), std::string::npos) << image.error().message();
    }

    SmallMemory memory_;
    Gpa root_;
    Gpa user_root_;
    CpuState cpu_;
};

TEST_F(KernelImageTest, FindsImageAndDirectMap) {
    auto image = find_kernel_image(memory_, cpu_);
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->start, text_base);
    EXPECT_EQ(image->gpa, Gpa(0x1000000));
    EXPECT_EQ(image->size, 0x800000u);
    ASSERT_EQ(image->parts.size(), 3u);
    EXPECT_EQ(image->direct_map, direct_map_base);
    ASSERT_EQ(image->windows.size(), 1u);
    EXPECT_EQ(image->windows[0].size, ram_size);
    EXPECT_EQ(image->levels, 4u);
    EXPECT_EQ(image->percpu_base, Gva(cpu_.gs_base));
}

TEST_F(KernelImageTest, TakesTheKernelsHalfInUserMode) {
    cpu_.cr3 = user_root_.value;
    cpu_.cpl = 3;
    cpu_.kernel_gs_base = cpu_.gs_base;
    cpu_.gs_base = 0;
    auto image = find_kernel_image(memory_, cpu_);
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->page_tables, root_);
    EXPECT_EQ(image->percpu_base, direct_map_base + 0x3e00000);

    memory_.word(root_ + 8 * ((direct_map_base.value >> 39) & 511)) = 0;
    expect_error(0, "page-table isolation");
}

TEST_F(KernelImageTest, ShowsHolesOfTheDirectMap) {
    memory_.entry(root_, 4, direct_map_base + 0x2000000, 2) = 0;
    auto image = find_kernel_image(memory_, cpu_);
    ASSERT_TRUE(image) << image.error().message();
    ASSERT_EQ(image->windows.size(), 2u);
    EXPECT_EQ(image->windows[0].size, 0x2000000u);
    EXPECT_EQ(image->windows[1].gpa, Gpa(0x2200000));
}

TEST_F(KernelImageTest, NamesTheStateOfTheGuest) {
    CpuState good = cpu_;
    cpu_.cr0 = 0x10;
    expect_error(EAGAIN, "real mode");
    cpu_.cr0 = 0x11;
    expect_error(EAGAIN, "still in firmware");
    cpu_ = good;
    cpu_.efer = 0;
    expect_error(ENOTSUP, "32-bit");
    cpu_ = good;
    cpu_.lstar = 0;
    expect_error(EAGAIN, "no kernel yet");
    cpu_.lstar = 0xfffff80000000000;
    expect_error(ENOEXEC, "not Linux");
    cpu_.lstar = 0xffffffffc0000000;
    expect_error(ENOEXEC, "not Linux");
}

TEST_F(KernelImageTest, NamesTheStepThatFailed) {
    CpuState good = cpu_;
    cpu_.cr3 = 0x123456789000;
    expect_error(0, "direct map: nothing is mapped");
    cpu_ = good;
    cpu_.lstar = text_base.value + 0x400000;
    expect_error(ENOENT, "system-call entry (LSTAR): page walk");
    cpu_.lstar = text_base.value + 0x200000;
    expect_error(0, "not executable");
    cpu_ = good;
    map(direct_map_base + 0x1000000, Gpa(0x1200000), 0);
    expect_error(0, "leads to 0x1200000 instead of the kernel image");
    map(direct_map_base, Gpa(0x200000), 0);
    expect_error(0, "not aligned to 1 GiB");
}

TEST_F(KernelImageTest, RefusesAnImageOutsideRam) {
    for (uint64_t at = 0; at < 0x800000; at += 0x200000)
        map(text_base + at, Gpa(ram_size - 0x200000 + at), 0);
    expect_error(0, "outside RAM");
}

TEST_F(KernelImageTest, TellsOtherSystemsFromLinuxWithoutSymbols) {
    auto other = inspect_kernel(memory_, cpu_);
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code(), ENOEXEC);
    EXPECT_NE(other.error().message().find("not Linux"), std::string::npos);
    // Across the border of two of the pieces that are read.
    std::memcpy(memory_.bytes().data() + 0x1300000 - 7, "Linux version 6.1", 17);
    auto linux_guest = inspect_kernel(memory_, cpu_);
    ASSERT_FALSE(linux_guest);
    EXPECT_EQ(linux_guest.error().message().find("kallsyms: no token table"), 0u);
}

} // namespace
} // namespace shadowmon::test
