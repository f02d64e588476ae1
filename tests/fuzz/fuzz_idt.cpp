// SPDX-License-Identifier: GPL-2.0-or-later
//
// The way from a hostile IDT through hostile entry code to the functions that take interrupts, and
// the places in these.
#include "tests/fuzz/idt_input.h"

#include "src/hooks/irq_functions.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <set>

using namespace shadowmon;
using namespace shadowmon::test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    IdtInput input;
    if (size <= sizeof(input) || size > 0x10000)
        return 0;
    std::memcpy(&input, data, sizeof(input));
    std::vector<std::byte> bytes(size - sizeof(input));
    std::memcpy(bytes.data(), data + sizeof(input), bytes.size());
    const Gva text(IdtText);
    std::vector<Gva> functions;
    for (uint64_t at = 0; at < bytes.size(); at += IdtFunction)
        functions.push_back(text + at);
    CodeMap code(text, std::move(bytes), functions, {});
    std::array<IdtEntry, 256> idt;
    for (unsigned i = 0; i < IdtInput::Gates; i++) {
        const IdtInput::Gate& gate = input.gate[i];
        Gva handler =
            gate.wild & 1 ? Gva(uint64_t{gate.offset} << 48 | gate.flags) : text + gate.offset;
        IdtEntry entry = IdtEntry::interrupt_gate(handler, 0x10);
        entry.low = (entry.low & ~(uint64_t{0xff} << 40)) | uint64_t{gate.flags} << 40;
        idt[32 + i] = entry;
    }
    IrqLandmarks marks{text,
                       text + input.entry_size,
                       text + input.irqentry_enter,
                       text + input.irqentry_exit,
                       text + input.irq_enter_rcu,
                       text + input.irq_exit_rcu};
    IrqFunctions found = find_irq_functions(idt, code, marks);
    // Every vector is told of once at most, every place is an instruction of its function.
    std::set<uint8_t> vectors;
    auto tell = [&](const std::vector<uint8_t>& some) {
        for (uint8_t vector : some)
            if (vector < 32 || !vectors.insert(vector).second)
                std::abort();
    };
    for (const UnwatchedVectors& one : found.unwatched)
        tell(one.vectors);
    for (const IrqFunction& one : found.watched) {
        tell(one.vectors);
        const Function* function = code.function(one.start);
        if (!function || one.entries.empty() || one.exits.empty())
            std::abort();
        for (const auto* places : {&one.entries, &one.exits})
            for (Gva at : *places)
                if (at < function->start || at >= function->end || !code.is_start(at))
                    std::abort();
    }
    return 0;
}
