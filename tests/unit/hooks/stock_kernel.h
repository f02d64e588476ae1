// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/hook_planner.h"
#include "src/hooks/kernel_reader.h"
#include "tests/unit/guest/image_file.h"

#include <gtest/gtest.h>

#include <optional>

namespace shadowmon::test {

/// The memory of a stock guest that SM_GUEST_IMAGE names, and a planner for its kernel.
class StockKernelHooks : public testing::Test {
  protected:
    void SetUp() override {
        if (GuestImage::folder().empty())
            GTEST_SKIP() << "SM_GUEST_IMAGE is not set";
        GuestImage guest(GuestImage::folder());
        memory_.emplace(guest.path("idle.mem"));
        auto info = inspect_kernel(*memory_, guest.cpus("idle")[0]);
        ASSERT_TRUE(info) << info.error().message();
        kernel_.emplace(std::move(*info));
        auto code = read_kernel_code(*kernel_, *memory_);
        ASSERT_TRUE(code) << code.error().message();
        planner_.emplace(std::move(*code), HookPolicy{}, &kernel_->symbols);
    }

    Gva symbol(const char* name) const {
        auto address = kernel_->symbols.address(name);
        EXPECT_TRUE(address) << address.error().message();
        return address ? *address : Gva();
    }

    std::optional<ImageFile> memory_;
    std::optional<KernelInfo> kernel_;
    std::optional<HookPlanner> planner_;
};

} // namespace shadowmon::test
