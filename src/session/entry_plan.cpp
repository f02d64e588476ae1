// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/entry_plan.h"

#include "src/compartment/page_tables.h"

namespace shadowmon {

namespace {

constexpr unsigned page_fault_vector = 14;
constexpr uint32_t idt_needed = (gate_vector + 1) * sizeof(IdtEntry) - 1; // as a limit
constexpr unsigned ist_mask = 7;

template <typename T> Result<T> read_value(const PhysicalMemory& memory, Gpa gpa) {
    T value{};
    SM_TRY(memory.read(gpa, std::as_writable_bytes(std::span(&value, 1))));
    return value;
}

template <typename T> std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

} // namespace

Result<EntryPlan> plan_entry(const KernelInfo& kernel, const GuestCpus& cpus,
                             const PhysicalMemory& memory, Placement placement,
                             const kvm_views_offer& offer) {
    EntryPlan plan{};
    auto pud = choose_entry(kernel, memory, placement, offer);
    if (!pud)
        return fail(pud.error());
    plan.pud = *pud;

    // Linux has one IDT for all CPUs. A vCPU with another one would miss the gate.
    PageTables tables = kernel.image.tables(memory);
    for (const kvm_views_vcpu& vcpu : cpus.running) {
        auto idt = tables.walk(Gva(vcpu.idt_base));
        if (!idt || idt->gpa != kernel.idt_gpa || vcpu.idt_limit < idt_needed)
            return failf("vCPU {} does not use the kernel's IDT yet (base {:#x}, limit {:#x}): the "
                         "guest is still starting its CPUs, try again",
                         vcpu.index, vcpu.idt_base, vcpu.idt_limit);
    }
    plan.idt_entry = kernel.idt_gpa + gate_vector * sizeof(IdtEntry);
    auto entry = read_value<IdtEntry>(memory, plan.idt_entry);
    auto sample =
        read_value<IdtEntry>(memory, kernel.idt_gpa + page_fault_vector * sizeof(IdtEntry));
    if (!entry || !sample)
        return fail((!entry ? entry.error() : sample.error()).in("read the IDT"));
    if (!sample->present() || sample->selector() == 0 || !kernel.image.contains(sample->handler()))
        return failf("the IDT at {:#x} is not Linux's: its page-fault entry leads to {:#x}",
                     kernel.idt_gpa.value, sample->handler().value);
    plan.selector = sample->selector();
    plan.old_entry = *entry;
    if (entry->present()) {
        if (in_compartment(entry->handler()))
            return failf("interrupt vector {} leads to {:#x}, into the compartment of another "
                         "monitor, or of one that left it behind",
                         gate_vector, entry->handler().value);
        if ((entry->low >> 32 & ist_mask) != 0 || entry->type() != IdtEntry::interrupt_gate_type ||
            !kernel.image.contains(entry->handler()))
            return failf("interrupt vector {} is in use by something that is not the kernel's #VE "
                         "handler ({:#x}, handler {:#x})",
                         gate_vector, entry->low, entry->handler().value);
        plan.chain_handler = entry->handler();
    }
    return plan;
}

std::vector<kvm_views_patch> EntryPlan::patches(Gpa region_gpa, Gva gate) const {
    const uint64_t pud_value = pud_entry(region_gpa);
    const IdtEntry idt_value = IdtEntry::interrupt_gate(gate, selector);
    return {make_patch(pud.gpa, bytes_of(pud.value), bytes_of(pud_value), 0),
            make_patch(idt_entry, bytes_of(old_entry), bytes_of(idt_value), 0)};
}

} // namespace shadowmon
