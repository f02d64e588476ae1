// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/module_functions.h"

#include "tests/unit/guest/made_modules.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace shadowmon::test {
namespace {

using State = GuestModule::State;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

class ModuleFunctionNames : public testing::TestWithParam<ModuleSeries> {
  protected:
    void SetUp() override {
        made_.add("virtio_mmio");
        made_.add("nvme");
    }
    void set_state(size_t module, State state) {
        made_.write(made_.object_of(module) + made_.layout.state, static_cast<uint32_t>(state));
    }
    void rename(size_t module, const std::string& name) {
        made_.put(made_.object_of(module) + made_.layout.name, name.c_str(), name.size() + 1);
    }
    /// Later than names are kept without another look.
    void time_passes() { now_ += ModuleFunctions::recheck; }

    MadeModules made_{GetParam()};
    nanoseconds now_{0};
    nanoseconds step_{0}; ///< that passes whenever the clock is read
    ModuleFunctions names_{made_.memory(), made_.layout, MadeModules::head,
                           [this] { return now_ += step_; }};
    const Gva first_ = made_.start(0), second_ = made_.start(0) + 0x40;
};

TEST_P(ModuleFunctionNames, AreThoseOfKallsyms) {
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_first [virtio_mmio]");
    EXPECT_EQ(names_.name_of(second_), "virtio_mmio_second [virtio_mmio]");
    EXPECT_EQ(names_.name_of(made_.start(1)), "nvme_first [nvme]");
    EXPECT_EQ(names_.name_of(first_ + 1), "") << "no function begins there";
    EXPECT_EQ(names_.name_of(made_.start(0) + MadeModules::text_size + 8), "") << "data";
    EXPECT_EQ(names_.name_of(Gva(0xffffffff81000000)), "") << "another one's";
    EXPECT_EQ(names_.name_of(Gva(UINT64_MAX)), "");
}

TEST_P(ModuleFunctionNames, OfSeveralTheFirstCounts) {
    // The one of the table that is the second function's comes to lie on the first one.
    made_.write(made_.start(0) + MadeModules::symtab + 24 + 8, first_.value);
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_second [virtio_mmio]");
}

TEST_P(ModuleFunctionNames, ComeWithTheModule) {
    Gva at = made_.start(2);
    EXPECT_EQ(names_.name_of(at), "");
    made_.add("e1000", State::coming);
    time_passes();
    EXPECT_EQ(names_.name_of(at), "e1000_first [e1000]") << "its interrupts come while it begins";
}

TEST_P(ModuleFunctionNames, GoWithTheModule) {
    EXPECT_EQ(names_.name_of(made_.start(1)), "nvme_first [nvme]");
    set_state(1, State::going);
    time_passes();
    EXPECT_EQ(names_.name_of(made_.start(1)), "nvme_first [nvme]");
    set_state(1, State::unformed);
    time_passes();
    EXPECT_EQ(names_.name_of(made_.start(1)), "");
}

TEST_P(ModuleFunctionNames, AreThoseOfTheModuleThatIsThereNow) {
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_first [virtio_mmio]");
    rename(0, "other");
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_first [virtio_mmio]") << "kept for a moment";
    time_passes();
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_first [other]");
}

TEST_P(ModuleFunctionNames, GoWithTheirPages) {
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_first [virtio_mmio]");
    auto root = made_.ram_of_guest().bytes().subspan(made_.memory().tables().root().value, 0x1000);
    std::fill(root.begin(), root.end(), std::byte(0));
    time_passes();
    EXPECT_EQ(names_.name_of(first_), "");
}

TEST_P(ModuleFunctionNames, OfWhatCannotBeReadThereIsNone) {
    made_.write(made_.start(0) + MadeModules::kallsyms + made_.layout.symbol_count, UINT32_MAX);
    EXPECT_EQ(names_.name_of(first_), "");
    made_.write(made_.start(1) + MadeModules::kallsyms + made_.layout.strtab, uint64_t{1} << 62);
    EXPECT_EQ(names_.name_of(made_.start(1)), "");
    // A list that leads nowhere.
    made_.write(MadeModules::head, uint64_t{1} << 62);
    time_passes();
    EXPECT_EQ(names_.name_of(first_), "");
}

/// The guest decides what a look costs, not what all of them together do.
TEST_P(ModuleFunctionNames, LookingForThemTakesItsShareOnly) {
    step_ = milliseconds(10);
    unsigned named = 0;
    for (uint64_t i = 0; i < 1000; i++)
        named += !names_.name_of(made_.start(1) + 0x1000 + i).empty();
    EXPECT_EQ(named, 0u);
    nanoseconds before = now_;
    EXPECT_EQ(names_.name_of(first_), "") << "there was no time for that";
    EXPECT_EQ(now_ - before, step_) << "nor was it taken";
    now_ += ModuleFunctions::burst * ModuleFunctions::share;
    EXPECT_EQ(names_.name_of(first_), "virtio_mmio_first [virtio_mmio]");
}

INSTANTIATE_TEST_SUITE_P(Series, ModuleFunctionNames,
                         testing::Values(ModuleSeries::Core, ModuleSeries::Mem));

} // namespace
} // namespace shadowmon::test
