// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/events/irq_pairing.h"

#include <algorithm>

namespace shadowmon {

IrqPairing::Cpu& IrqPairing::cpu_at(uint32_t cpu, uint64_t nth) {
    Cpu& one = cpus_[cpu % cpus_.size()];
    if (nth != one.next)
        one.open.clear();
    one.next = nth + 1;
    return one;
}

void IrqPairing::enter(uint32_t cpu, uint64_t nth, const Entry& entry) {
    Cpu& one = cpu_at(cpu, nth);
    // No kernel nests so deep: some exits have not been hooked.
    if (one.open.size() == max_depth)
        one.open.clear();
    one.open.push_back(entry);
}

std::optional<IrqPairing::Entry> IrqPairing::exit(uint32_t cpu, uint64_t nth, uint64_t tsc,
                                                  std::string_view function) {
    Cpu& one = cpu_at(cpu, nth);
    if (one.open.empty())
        return std::nullopt;
    Entry entry = one.open.back();
    one.open.pop_back();
    if (entry.function != function || entry.tsc > tsc) {
        one.open.clear();
        return std::nullopt;
    }
    if (changed_within(entry.tsc, tsc))
        return std::nullopt;
    return entry;
}

void IrqPairing::hooks_changed(uint64_t tsc) {
    // Old ones are long behind every interrupt that is still open.
    if (changes_.size() == max_changes)
        changes_.erase(changes_.begin());
    changes_.push_back(tsc);
}

bool IrqPairing::changed_within(uint64_t from, uint64_t to) const {
    return std::any_of(changes_.begin(), changes_.end(),
                       [&](uint64_t change) { return change >= from && change <= to; });
}

uint64_t IrqPairing::open() const {
    uint64_t sum = 0;
    for (const Cpu& one : cpus_)
        sum += one.open.size();
    return sum;
}

} // namespace shadowmon
