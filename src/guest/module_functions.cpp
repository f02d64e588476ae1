// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/module_functions.h"

#include <algorithm>

namespace shadowmon {

Result<ModuleFunctions> ModuleFunctions::of(const KernelInfo& kernel,
                                            const PhysicalMemory& memory) {
    auto head = kernel.symbols.address("modules");
    auto layout = ModuleLayout::of(kernel.btf);
    if (!head || !layout)
        return fail((head ? layout.error() : head.error()).in("find the guest's modules"));
    return ModuleFunctions(VirtualMemory(kernel.image.tables(memory)), std::move(*layout), *head,
                           [] { return std::chrono::steady_clock::now().time_since_epoch(); });
}

/// Also while it is being initialized or is about to go: its interrupts come then, too.
bool ModuleFunctions::is_there(const GuestModule& module) const {
    auto now = read_module(memory_, layout_, module.object);
    return now && same_module(*now, module) && now->state != GuestModule::State::unformed;
}

void ModuleFunctions::look(Gva at, Known& known) const {
    memory_.drop(); // modules lie in other pages each time
    if (known.module && is_there(*known.module))
        return;
    known.name.clear();
    known.module.reset();
    GuestModules now = read_modules(memory_, layout_, head_);
    const GuestModule* module = now.around(at);
    if (!module)
        return;
    auto name = function_at(memory_, layout_, *module, at);
    // What was freed meanwhile may say anything.
    if (!name || name->empty() || !is_there(*module))
        return;
    known.name = fmt::format("{} [{}]", *name, module->name);
    known.module = *module;
}

std::string ModuleFunctions::name_of(Gva at) {
    const Nanoseconds now = clock_();
    left_ = std::min(burst, left_ + (now - asked_) / share);
    asked_ = now;
    auto found = known_.find(at);
    if (found != known_.end() && now - found->second.looked_at < recheck)
        return found->second.name;
    if (left_ <= Nanoseconds(0))
        return {};
    if (found == known_.end()) {
        if (known_.size() >= max_known)
            known_.clear();
        found = known_.try_emplace(at).first;
    }
    look(at, found->second);
    found->second.looked_at = now;
    left_ -= clock_() - now;
    return found->second.name;
}

} // namespace shadowmon
