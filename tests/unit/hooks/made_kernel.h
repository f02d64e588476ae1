// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/hooks/hook_planner.h"

#include <initializer_list>
#include <list>
#include <string>
#include <vector>

namespace shadowmon::test {

/// A kernel of a few functions, each at the next multiple of 16 behind INT3, and data behind
/// them. What is added after planner() or info() counts for the next call.
class MadeKernel {
  public:
    static constexpr Gva text{0xffffffff81000000};
    static constexpr Gva data{0xffffffff81800000};

    Gva add(const std::string& name, std::initializer_list<int> code, char type = 't') {
        bytes_.resize((bytes_.size() + 15) / 16 * 16, std::byte{0xcc});
        Gva at = text + bytes_.size();
        for (int value : code)
            bytes_.push_back(static_cast<std::byte>(value));
        entries_.push_back(at);
        limits_.push_back(Refusal::none);
        add_symbol(name, at, type);
        return at;
    }
    void add_symbol(const std::string& name, Gva at, char type, bool absolute = false) {
        symbols_.push_back({names_.emplace_back(name), at.value, type, absolute});
    }
    /// The function that was added last may carry no hook.
    void limit(Refusal why) { limits_.back() = why; }
    void patched(Gva at, Refusal why) { patched_.push_back({at, why}); }

    KernelInfo info() const {
        KernelImage image{};
        image.start = text;
        image.size = 0x1000000;
        return KernelInfo(std::move(image), Kallsyms::of(symbols_, "test"));
    }
    HookPlanner planner(const KernelInfo& info, HookPolicy policy = {}) const {
        std::vector<std::byte> bytes = bytes_;
        bytes.resize((bytes.size() + 15) / 16 * 16, std::byte{0xcc});
        return HookPlanner({CodeMap(text, bytes, entries_, {}), limits_, {}, patched_, {}}, policy,
                           &info.symbols);
    }

  private:
    std::vector<std::byte> bytes_;
    std::vector<Gva> entries_;
    std::vector<Refusal> limits_;
    std::vector<PatchedSite> patched_;
    std::vector<Symbol> symbols_;
    std::list<std::string> names_;
};

} // namespace shadowmon::test
