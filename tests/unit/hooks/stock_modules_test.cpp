// SPDX-License-Identifier: GPL-2.0-or-later
// Modules of the kernels that Debian ships; the images have msr.ko loaded.
#include "src/hooks/place_finder.h"

#include "abi/config.h"
#include "src/hooks/module_reader.h"
#include "src/hooks/survey.h"
#include "src/session/hook_plan.h"
#include "tests/unit/hooks/piece_reader.h"
#include "tests/unit/hooks/stock_kernel.h"

namespace shadowmon::test {
namespace {

constexpr Gva page(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET);

class StockModules : public StockKernelHooks {
  protected:
    void SetUp() override {
        StockKernelHooks::SetUp();
        if (!ready())
            return;
        auto modules = read_modules(*kernel_, *memory_);
        ASSERT_TRUE(modules) << modules.error().message();
        modules_ = std::move(*modules);
        policy_.call_gate = true;
        auto kernel_planner = [this]() -> Result<const HookPlanner*> {
            kernel_asked_++;
            return &*planner_;
        };
        finder_.emplace(*kernel_, *memory_, policy_, PlaceFinder::Covered(), kernel_planner,
                        find_return_thunks(kernel_->symbols));
    }

    Result<FoundPlaces> find(const std::vector<std::string>& words, size_t max = 1000) {
        return finder_->find(words, max);
    }

    HookPolicy policy_;
    GuestModules modules_;
    std::optional<PlaceFinder> finder_;
    unsigned kernel_asked_ = 0;
};

TEST_F(StockModules, AreListed) {
    EXPECT_TRUE(modules_.problems.empty()) << modules_.problems[0];
    const GuestModule* msr = modules_.find("msr");
    ASSERT_TRUE(msr);
    EXPECT_EQ(msr->state, GuestModule::State::live);
    EXPECT_GE(msr->text.size, 0x1000u);
    EXPECT_GE(msr->ftrace.count, 5u);
    EXPECT_TRUE(msr->contains(msr->object)) << "struct module is part of the module";
    EXPECT_TRUE(still_loaded(modules_, *msr));
    GuestModule other = *msr;
    other.text.start = other.text.start + 0x1000;
    EXPECT_FALSE(still_loaded(modules_, other)) << "it was loaded again, elsewhere";
    auto symbols = read_module_symbols(*kernel_, *memory_, *msr);
    ASSERT_TRUE(symbols) << symbols.error().message();
    for (const char* name : {"msr_read", "msr_write", "msr_open"}) {
        auto at = symbols->symbols.address(name);
        ASSERT_TRUE(at) << name;
        EXPECT_TRUE(msr->text.contains(*at)) << name;
    }
}

/// As `hooks.stock_survey` does it for the kernel's own text.
TEST_F(StockModules, EveryInstructionIsPlanned) {
    for (const GuestModule& module : modules_.modules) {
        auto code = finder_->code_of(module);
        ASSERT_TRUE(code) << code.error().message();
        const HookPlanner& planner = *(*code)->planner;
        size_t wrong = 0;
        Survey result = survey(planner, page, [&](Gva at, const Displaced& displaced) {
            if (displaced.gate == Gate::call)
                return;
            for (bool interrupts : {false, true}) {
                auto piece = displace(displaced, page, interrupts);
                auto difference = read_piece(displaced, *piece, page, interrupts);
                if (!difference.empty() && wrong++ < 20)
                    ADD_FAILURE() << planner.where(at) << ": " << difference;
            }
        });
        std::printf("%s\n%s", module.name.c_str(), result.table().c_str());
        EXPECT_GT(result.instructions, 100u);
        EXPECT_GT(result.share(result.hookable), 85.0) << module.name;
        EXPECT_EQ(result.refused[static_cast<size_t>(Refusal::out_of_reach)], 0u);
        // Zeros between sections are no function, and the last of them may be half an instruction.
        const CodeMap& map = planner.code().map;
        for (size_t n = 0; n < map.function_count(); n++) {
            const Function& function = map.function(n);
            bool zeros = planner.judge(function.start).refusal == Refusal::padding;
            EXPECT_TRUE(zeros || function.unclear_from == function.end)
                << planner.where(function.start);
        }
    }
}

TEST_F(StockModules, NamesMeanPlaces) {
    auto found = find({"msr:msr_read", "msr:msr_read%return"});
    ASSERT_TRUE(found) << found.error().message();
    ASSERT_GE(found->places.size(), 2u);
    EXPECT_EQ(found->places[0].named.name, "msr:msr_read");
    EXPECT_EQ(found->places[0].named.displaced.gate, Gate::call) << "ftrace's NOP is there";
    EXPECT_EQ(found->places[1].named.name, "msr:msr_read%return");
    const ModuleCode& code = *found->places[0].module;
    Gva behind = found->places[0].named.displaced.end();
    std::string word =
        fmt::format("msr:msr_read+{}", behind - *code.symbols.symbols.address("msr_read"));
    auto offset = find({word});
    ASSERT_TRUE(offset) << offset.error().message();
    EXPECT_EQ(offset->places[0].named.name, word);
    EXPECT_EQ(offset->places[0].named.displaced.address(), behind);
    EXPECT_EQ(kernel_asked_, 0u) << "the kernel's own text need not be read for that";
    for (const FoundPlace& place : found->places)
        EXPECT_EQ(place.module->module.name, "msr");

    Gva at = found->places[0].named.displaced.address();
    ASSERT_FALSE(kernel_->symbols.find("msr_open"));
    auto plain = find({"msr_open"});
    ASSERT_TRUE(plain) << plain.error().message();
    EXPECT_EQ(plain->places[0].named.name, "msr:msr_open");
    auto address = find({fmt::format("{:#x}", at.value)});
    ASSERT_TRUE(address) << address.error().message();
    EXPECT_EQ(address->places[0].named.displaced.address(), at);
    EXPECT_TRUE(address->places[0].named.name.starts_with("msr:msr_read"))
        << address->places[0].named.name;
    EXPECT_EQ(kernel_asked_, 0u);
    // Of a function that both have, the kernel's is meant.
    auto own = find({"msr_read", "vmlinux:vfs_write"});
    ASSERT_TRUE(own) << own.error().message();
    EXPECT_EQ(own->places[1].named.name, "vfs_write");
    EXPECT_FALSE(own->places[0].module || own->places[1].module);
}

TEST_F(StockModules, PatternsCoverThem) {
    auto whole = find({"msr:*"});
    ASSERT_TRUE(whole) << whole.error().message();
    EXPECT_GE(whole->places.size(), 5u);
    auto mixed = find({"msr_*"});
    ASSERT_TRUE(mixed) << mixed.error().message();
    auto is_own = [](const FoundPlace& place) { return !place.module; };
    size_t own =
        static_cast<size_t>(std::count_if(mixed->places.begin(), mixed->places.end(), is_own));
    EXPECT_GT(own, 0u);
    EXPECT_GT(mixed->places.size(), own);
    auto everywhere = find({"m*:msr_read"});
    ASSERT_TRUE(everywhere) << everywhere.error().message();
    EXPECT_EQ(everywhere->places.size(), 1u);
    auto many = find({"msr_*"}, mixed->places.size() - 1);
    ASSERT_FALSE(many);
    EXPECT_NE(many.error().message().find("there is room for"), std::string::npos)
        << many.error().message();
    EXPECT_TRUE(find({"msr_ope?"}));
    EXPECT_FALSE(find({"vmlinux:msr_ope?"}));
}

TEST_F(StockModules, ManyPatternsAtOnce) {
    auto many = find({"tcp_*", "kmem_*", "do_*", "vfs_*"}, 2048);
    ASSERT_TRUE(many) << many.error().message();
    EXPECT_GT(many->places.size(), 400u);
    std::set<std::string> names;
    for (const FoundPlace& place : many->places)
        names.insert(place.named.name);
    EXPECT_TRUE(names.count("vfs_read") && names.count("do_exit"));
}

TEST_F(StockModules, WordsThatMeanNothing) {
    const struct {
        const char* word;
        const char* text;
    } wrong[] = {
        {"msr:msr_raed", "module msr has no function \"msr_raed\"; similar: msr_read"},
        {"msr_raed", "nor has one of its"},
        {"msr:nothing_*", "no function of the guest's modules is named like"},
        {"msr:msr_read+0x100000", "msr:msr_read+0x100000: the function is"},
        {"msr:msr_read+1", "msr:msr_read+0x1 cannot be hooked"},
        {"msr:", "a hook needs a name"},
    };
    for (const auto& one : wrong) {
        auto found = find({one.word});
        ASSERT_FALSE(found) << one.word;
        EXPECT_NE(found.error().message().find(one.text), std::string::npos)
            << found.error().message();
    }
    GuestModule going = *modules_.find("msr");
    going.state = GuestModule::State::going;
    auto code = finder_->code_of(going);
    ASSERT_FALSE(code);
    EXPECT_NE(code.error().message().find("being loaded or unloaded"), std::string::npos);
}

/// What a module says of itself is the guest's.
TEST_F(StockModules, HostileModulesAreRefused) {
    const GuestModule msr = *modules_.find("msr");
    auto symbols = read_module_symbols(*kernel_, *memory_, msr);
    ASSERT_TRUE(symbols);
    auto refused = [&](const GuestModule& module) {
        auto code = read_module_code(*kernel_, *memory_, module, *symbols);
        return code ? "read" : code.error().message();
    };
    EXPECT_EQ(refused(msr), "read");
    for (uint64_t start : {0xffffffff7fff0000, 0xffffffff40000000, 0xfffffffffff00000}) {
        GuestModule far = msr;
        far.text.start = Gva(start);
        EXPECT_NE(refused(far).find("out of the monitor's reach"), std::string::npos) << start;
    }
    GuestModule unmapped = msr;
    unmapped.text.start = Gva(0xfffffffffd000000);
    EXPECT_NE(refused(unmapped).find("module msr: read its code"), std::string::npos)
        << refused(unmapped);
    for (ModuleTable GuestModule::*table :
         {&GuestModule::exceptions, &GuestModule::jump_labels, &GuestModule::static_calls,
          &GuestModule::bugs, &GuestModule::ftrace}) {
        GuestModule broken = msr;
        broken.*table = {Gva(0x1000), 3};
        EXPECT_NE(refused(broken).find("module msr: read its tables"), std::string::npos)
            << refused(broken);
    }
    GuestModule endless = msr;
    endless.data.push_back({Gva(0x1000), 0x1000});
    EXPECT_NE(refused(endless).find("module msr: look for pointers"), std::string::npos);
}

/// The place where a vCPU is stopped that unloads one.
TEST_F(StockModules, AreSeenToGo) {
    auto guard = plan_module_guard(*kernel_, *memory_, {});
    ASSERT_TRUE(guard) << guard.error().message();
    EXPECT_TRUE(guard->internal);
    EXPECT_EQ(guard->flags, SM_HOOK_HOLD);
    Gva function = symbol("free_module");
    EXPECT_LT(guard->displaced.address() - function, 32u);
    // Also where somebody else's hook covers the function's beginning.
    CoveredPlaces covered{{function, {}}};
    auto bytes = planner_->code().map.bytes(function, function + 5);
    covered[0].second.assign(bytes.begin(), bytes.end());
    auto again = plan_module_guard(*kernel_, *memory_, covered);
    ASSERT_TRUE(again) << again.error().message();
    EXPECT_EQ(again->displaced.address(), guard->displaced.address());
}

} // namespace
} // namespace shadowmon::test
