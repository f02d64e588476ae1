// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/hooks/hook_planner.h"
#include "src/hooks/kernel_reader.h"
#include "tests/unit/guest/stock_guest.h"

namespace shadowmon::test {

/// A planner for the kernel of a stock guest.
class StockKernelHooks : public StockGuest {
  protected:
    void SetUp() override {
        StockGuest::SetUp();
        if (!ready())
            return;
        auto code = read_kernel_code(*kernel_, *memory_);
        ASSERT_TRUE(code) << code.error().message();
        planner_.emplace(std::move(*code), HookPolicy{}, &kernel_->symbols);
    }

    std::optional<HookPlanner> planner_;
};

} // namespace shadowmon::test
