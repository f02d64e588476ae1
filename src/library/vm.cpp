// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/vm.h>

#include "src/hooks/explain.h"
#include "src/hooks/kernel_reader.h"
#include "src/hooks/place_finder.h"
#include "src/library/vm_parts.h"
#include "src/session/guest_survey.h"
#include "src/vm/live_memory.h"

namespace shadowmon {

Vm::Vm(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Vm::Vm(Vm&& other) noexcept = default;
Vm& Vm::operator=(Vm&& other) noexcept = default;
Vm::~Vm() = default;

Result<Vm> Vm::open(int vmm_pid) {
    auto process = VmProcess::open(vmm_pid);
    if (!process)
        return fail(process.error());
    auto views = Views::attach(process->vm_fd());
    if (!views)
        return fail(views.error());
    return Vm(std::make_unique<Parts>(
        Parts{std::move(*process), std::make_unique<Views>(std::move(*views))}));
}

int Vm::vmm_pid() const { return parts_->process.pid(); }
const std::string& Vm::vmm_name() const { return parts_->process.name(); }

Result<Explanation> Vm::explain(const std::string& place, const Log& step) const {
    const Views& views = *parts_->views;
    auto memory = LiveMemory::of(views);
    if (!memory)
        return fail(memory.error());
    auto guest = survey_guest(
        views, *memory, nullptr, step ? step : [](const std::string&) {});
    if (!guest)
        return fail(guest.error());
    HookPolicy policy;
    policy.call_gate = !preempts_kernel_code(guest->kernel, *memory);
    std::optional<HookPlanner> kernel_planner;
    auto planner = [&]() -> Result<const HookPlanner*> {
        if (!kernel_planner) {
            auto code = read_kernel_code(guest->kernel, *memory);
            if (!code)
                return fail(code.error());
            kernel_planner.emplace(std::move(*code), policy, &guest->kernel.symbols);
        }
        return &*kernel_planner;
    };
    PlaceFinder finder(guest->kernel, *memory, policy, {}, planner,
                       find_return_thunks(guest->kernel.symbols));
    auto located = finder.locate(place);
    if (!located)
        return fail(located.error());
    std::vector<std::string> notes;
    // A function is hooked where its arguments are, which may be behind its first instruction.
    if (auto found = finder.find({place}, 1)) {
        located->at = found->places.front().named.displaced.address();
        notes = std::move(found->notes);
    }
    Explanation explanation = shadowmon::explain(*located->planner, guest->kernel, located->at);
    explanation.notes = std::move(notes);
    return explanation;
}

} // namespace shadowmon
