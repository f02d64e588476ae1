// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "tests/unit/guest/image_file.h"

#include <gtest/gtest.h>

#include <optional>

namespace shadowmon::test {

/// A stock guest, as SM_GUEST_IMAGE names it, with nothing running, and what is known of its
/// kernel from the memory alone. Without an image its tests are skipped; the SetUp of a class
/// above it goes on if ready().
class StockGuest : public testing::Test {
  protected:
    void SetUp() override {
        if (GuestImage::folder().empty())
            GTEST_SKIP() << "SM_GUEST_IMAGE is not set";
        guest_.emplace(GuestImage::folder());
        memory_.emplace(guest_->path("idle.mem"));
        cpu_ = guest_->cpus("idle")[0];
        static const Result<KernelInfo> info = inspect_kernel(*memory_, cpu_);
        ASSERT_TRUE(info) << info.error().message();
        kernel_ = &*info;
    }
    static bool ready() { return !IsSkipped() && !HasFatalFailure(); }

    Gva symbol(const std::string& name) const {
        auto address = kernel_->symbols.address(name);
        EXPECT_TRUE(address) << address.error().message();
        return address ? *address : Gva();
    }

    std::optional<GuestImage> guest_;
    std::optional<ImageFile> memory_;
    CpuState cpu_;                       ///< the first one
    const KernelInfo* kernel_ = nullptr; ///< of before any change: one for all tests of a process
};

} // namespace shadowmon::test
