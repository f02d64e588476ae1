// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/hook_plan.h"

#include "src/hooks/site_planner.h"

#include <algorithm>
#include <sstream>

namespace shadowmon {

namespace {

/// A function that a monitor hooks at its entry.
struct Target {
    const char* function;
    bool needed; ///< every kernel has it
    uint16_t type;
    uint16_t flags;
    std::vector<ZydisRegister> keep;
};

// struct pt_regs* is the first argument of all of these; __switch_to has the tasks.
const std::vector<Target>& syscall_targets() {
    static const std::vector<Target> targets = {
        {"do_syscall_64", true, SM_EVENT_SYSCALL_ENTER, 0, {ZYDIS_REGISTER_RDI}},
        // An exception entry: it moves ax to orig_ax itself, later.
        {"do_int80_emulation",
         false,
         SM_EVENT_SYSCALL_ENTER,
         SM_HOOK_COMPAT | SM_HOOK_NR_IN_AX,
         {ZYDIS_REGISTER_RDI}},
        {"do_int80_syscall_32",
         false,
         SM_EVENT_SYSCALL_ENTER,
         SM_HOOK_COMPAT,
         {ZYDIS_REGISTER_RDI}},
        {"do_fast_syscall_32", false, SM_EVENT_SYSCALL_ENTER, SM_HOOK_COMPAT, {ZYDIS_REGISTER_RDI}},
        {"syscall_exit_to_user_mode", true, SM_EVENT_SYSCALL_EXIT, 0, {ZYDIS_REGISTER_RDI}},
    };
    return targets;
}

const std::vector<Target>& switch_targets() {
    static const std::vector<Target> targets = {
        {"__switch_to", true, SM_EVENT_SWITCH, 0, {ZYDIS_REGISTER_RDI, ZYDIS_REGISTER_RSI}},
    };
    return targets;
}

/// A function longer than this is looked at only so far.
constexpr uint64_t max_code = 16 * 1024;

Result<std::vector<std::byte>> read_code(Gva start, const KernelInfo& kernel,
                                         const PhysicalMemory& memory,
                                         const CoveredPlaces& covered) {
    Gva end = kernel.symbols.next_address(start).value_or(start + max_code);
    uint64_t size = std::min(end - start, max_code);
    if (!kernel.image.contains(start) || !kernel.image.contains(start + size - 1))
        return failf("{:#x} is outside the kernel image", start.value);
    auto gpa = kernel.to_gpa(start);
    if (!gpa)
        return fail(gpa.error());
    std::vector<std::byte> code(size);
    SM_TRY(memory.read(*gpa, code));
    for (const auto& [at, original] : covered)
        if (at >= start && at - start < size && original.size() <= size - (at - start))
            std::copy(original.begin(), original.end(),
                      code.begin() + static_cast<std::ptrdiff_t>(at - start));
    return code;
}

Result<HookRequest> plan_target(const Target& target, Gva start, const KernelInfo& kernel,
                                const PhysicalMemory& memory, const CoveredPlaces& covered) {
    std::string step = fmt::format("plan a hook in {}", target.function);
    auto code = read_code(start, kernel, memory, covered);
    if (!code)
        return fail(code.error().in(step));
    auto site = plan_site({target.function, start, *code, target.keep});
    if (!site)
        return fail(site.error().in(step));
    auto gpa = kernel.to_gpa(site->address);
    if (!gpa)
        return fail(gpa.error().in(step));
    return HookRequest{target.function, {{site->instruction}, site->bytes},
                       site->bytes,     *gpa,
                       target.type,     target.flags};
}

} // namespace

Result<MonitorSet> MonitorSet::parse(const std::string& names) {
    MonitorSet set;
    std::istringstream in(names);
    for (std::string name; std::getline(in, name, ',');) {
        if (name == "syscalls")
            set.syscalls = true;
        else if (name == "switches")
            set.switches = true;
        else if (name == "irq")
            set.irq = true;
        else
            return failf("there is no monitor \"{}\"; there are: syscalls, switches, irq", name);
    }
    if (!set.any())
        return failf("no monitor is named; there are: syscalls, switches, irq");
    return set;
}

Result<std::vector<HookRequest>> plan_hooks(const MonitorSet& monitors, const KernelInfo& kernel,
                                            const PhysicalMemory& memory) {
    std::vector<Target> targets;
    if (monitors.syscalls)
        targets = syscall_targets();
    if (monitors.switches)
        targets.insert(targets.end(), switch_targets().begin(), switch_targets().end());

    std::vector<HookRequest> requests;
    for (const Target& target : targets) {
        if (!target.needed && !kernel.symbols.find(target.function))
            continue;
        auto start = kernel.symbols.address(target.function);
        if (!start)
            return fail(start.error().in("plan a hook"));
        auto request = plan_target(target, *start, kernel, memory, {});
        if (!request)
            return fail(request.error());
        requests.push_back(std::move(*request));
    }
    return requests;
}

namespace {

Result<HookRequest> plan_guard(const Target& target, const char* step, const KernelInfo& kernel,
                               const PhysicalMemory& memory, const CoveredPlaces& covered) {
    auto start = kernel.symbols.address(target.function);
    auto request = start ? plan_target(target, *start, kernel, memory, covered)
                         : Result<HookRequest>(fail(start.error()));
    if (!request)
        return fail(request.error().in(step));
    request->internal = true;
    return request;
}

} // namespace

Result<HookRequest> plan_loading_guard(const KernelInfo& kernel, const PhysicalMemory& memory,
                                       const CoveredPlaces& covered) {
    // The kernel keeps it a function of its own, for debuggers that wait for modules.
    static const Target target{"do_init_module", true, SM_EVENT_HOOK, SM_HOOK_HOLD, {}};
    return plan_guard(target, "see that a module is loaded", kernel, memory, covered);
}

Result<HookRequest> plan_module_guard(const KernelInfo& kernel, const PhysicalMemory& memory,
                                      const CoveredPlaces& covered) {
    // Called with a module that nobody uses any more and that is still there as a whole: by
    // delete_module(2), and where its initialization failed.
    static const Target target{"free_module", true, SM_EVENT_HOOK, SM_HOOK_HOLD, {}};
    return plan_guard(target, "see that a module is unloaded", kernel, memory, covered);
}

} // namespace shadowmon
