// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/irq_plan.h"

#include "src/hooks/irq_functions.h"
#include "src/hooks/kernel_reader.h"

#include <algorithm>
#include <array>

namespace shadowmon {

namespace {

constexpr const char* step = "watch interrupts";

std::string vector_text(const std::vector<uint8_t>& vectors) {
    if (vectors.size() == 1)
        return fmt::format("vector {}", vectors.front());
    return fmt::format("{} vectors from {} to {}", vectors.size(), vectors.front(), vectors.back());
}

/// Without them an interrupt of a device is still told of, with its vector.
Result<sm_irq_offsets> find_offsets(const KernelInfo& kernel) {
    sm_irq_offsets out{};
    auto vectors = kernel.symbols.percpu_offset("vector_irq");
    if (!vectors)
        return fail(vectors.error());
    if (*vectors == 0 || *vectors > UINT32_MAX)
        return failf("vector_irq: offset {:#x} in the per-CPU area", *vectors);
    const struct {
        const char* type;
        const char* member;
        uint32_t size;
        uint32_t* to;
    } wanted[] = {
        {"irq_desc", "irq_data.irq", 4, &out.desc_irq},
        {"irq_desc", "action", 8, &out.desc_action},
        {"irqaction", "handler", 8, &out.action_handler},
    };
    for (const auto& one : wanted) {
        auto member = kernel.btf.member(one.type, one.member);
        if (!member)
            return fail(member.error());
        if (member->size != one.size)
            return failf("BTF: {}.{} has {} bytes, expected {}", one.type, one.member, member->size,
                         one.size);
        *one.to = member->offset;
    }
    out.vector_irq = static_cast<uint32_t>(*vectors);
    return out;
}

/// From the functions that take interrupts, which are noinstr, to the entry code that calls them,
/// or the other way round; the rest of the kernel need not be read. All hooks here are on
/// instructions of a compiler's noinstr function that are longer than a hook, into the middle of
/// which nothing leads.
Result<TextRange> code_range(const Kallsyms& symbols, const IrqLandmarks& landmarks) {
    auto start = symbols.address("__noinstr_text_start");
    auto end = symbols.address("__noinstr_text_end");
    if (!start || !end)
        return fail((start ? end : start).error());
    return TextRange{std::min(*start, landmarks.entry_start), std::max(*end, landmarks.entry_end)};
}

class Planner {
  public:
    Planner(const KernelInfo& kernel, const HookPlanner& hooks) : kernel_(kernel), hooks_(hooks) {}

    /// The hooks of one function, all or none.
    Result<std::vector<HookRequest>> plan(const IrqFunction& function) const {
        std::vector<HookRequest> requests;
        std::string name = hooks_.where(function.start);
        auto flags = static_cast<uint16_t>(
            function.is_line ? SM_HOOK_IRQ_LINE : function.vectors.front() << SM_HOOK_VECTOR_SHIFT);
        for (Gva at : function.entries)
            SM_TRY(add(requests, at, name, SM_EVENT_IRQ_ENTER, flags));
        for (Gva at : function.exits)
            SM_TRY(
                add(requests, at, name + std::string(irq_exit_suffix), SM_EVENT_IRQ_EXIT, flags));
        return requests;
    }

  private:
    Status add(std::vector<HookRequest>& requests, Gva at, std::string name, uint16_t type,
               uint16_t flags) const {
        auto displaced = hooks_.plan(at);
        if (!displaced)
            return fail(displaced.error());
        if (displaced->instructions.front().length() < hook_bytes.size())
            return failf("{} is shorter than a hook", hooks_.where(at));
        auto gpa = kernel_.to_gpa(at);
        if (!gpa)
            return fail(gpa.error());
        std::vector<std::byte> bytes = displaced->bytes;
        requests.push_back(
            {std::move(name), std::move(*displaced), std::move(bytes), *gpa, type, flags, {}});
        return {};
    }

    const KernelInfo& kernel_;
    const HookPlanner& hooks_;
};

} // namespace

Result<IrqPlan> plan_irq_hooks(const KernelInfo& kernel, const PhysicalMemory& memory,
                               HookPolicy policy) {
    auto landmarks = IrqLandmarks::find(kernel.symbols);
    if (!landmarks)
        return fail(landmarks.error().in(step));
    std::array<IdtEntry, 256> idt;
    if (auto read = memory.read(kernel.idt_gpa, std::as_writable_bytes(std::span(idt))); !read)
        return fail(read.error().in("read the IDT").in(step));
    auto range = code_range(kernel.symbols, *landmarks);
    if (!range)
        return fail(range.error().in(step));
    auto code = read_kernel_code(kernel, memory, {}, *range);
    if (!code)
        return fail(code.error().in(step));
    // The places are in noinstr functions, between the two that make it safe to be traced there.
    policy.noinstr = true;
    policy.call_gate = false;
    HookPlanner hooks(std::move(*code), policy, &kernel.symbols);
    IrqFunctions functions = find_irq_functions(idt, hooks.code().map, *landmarks);

    IrqPlan plan;
    auto note = [&](const std::vector<uint8_t>& vectors, Gva handler, const std::string& why) {
        plan.notes.push_back(fmt::format("interrupts: {} ({}) not watched: {}",
                                         vector_text(vectors), hooks.where(handler), why));
    };
    for (const UnwatchedVectors& one : functions.unwatched)
        note(one.vectors, one.handler, one.why);
    for (const IrqFunction& function : functions.watched) {
        auto requests = Planner(kernel, hooks).plan(function);
        if (requests)
            std::move(requests->begin(), requests->end(), std::back_inserter(plan.requests));
        else
            note(function.vectors, function.start, requests.error().message());
    }
    if (plan.requests.empty())
        return failf("{}: none of the {} handlers that the IDT at {:#x} leads to can be hooked{}",
                     step, functions.watched.size() + functions.unwatched.size(),
                     kernel.idt_gpa.value, plan.notes.empty() ? "" : "; " + plan.notes.front());
    auto offsets = find_offsets(kernel);
    if (offsets)
        plan.offsets = *offsets;
    else
        plan.notes.push_back("interrupts: devices are told by their vectors only: " +
                             offsets.error().message());
    return plan;
}

} // namespace shadowmon
