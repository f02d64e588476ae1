// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/irq_functions.h"

#include "src/hooks/movable.h"

#include <algorithm>
#include <map>
#include <optional>

namespace shadowmon {

namespace {

constexpr size_t first_vector = 32; ///< those below are exceptions
constexpr size_t vector_count = 256;
constexpr unsigned longest_entry = 48; ///< instructions, jumps included
constexpr size_t longest_function = 4096;
constexpr size_t longest_instruction = 15;

/// The function that a vector's entry code calls, or nothing.
std::optional<Gva> follow_entry(Gva at, const CodeMap& code, const IrqLandmarks& marks) {
    auto in_entry_code = [&](Gva gva) { return gva >= marks.entry_start && gva < marks.entry_end; };
    for (unsigned i = 0; i < longest_entry; i++) {
        if (!in_entry_code(at) || !code.contains(at))
            return std::nullopt;
        // By itself: a map of functions has one start for all entries of a table.
        size_t size = std::min<uint64_t>(longest_instruction, code.end() - at);
        auto instruction = Instruction::decode(at, code.bytes(at, at + size));
        if (!instruction)
            return std::nullopt;
        auto target = instruction->branch_target();
        switch (flow_of(*instruction)) {
        case Flow::next:
            at = instruction->end();
            break;
        case Flow::call:
            if (!target)
                return std::nullopt;
            if (!in_entry_code(*target))
                return target;
            at = instruction->end();
            break;
        case Flow::jump:
            if (!target)
                return std::nullopt;
            at = *target;
            break;
        default:
            return std::nullopt;
        }
    }
    return std::nullopt;
}

/// Looks for the places in one function.
class FunctionReader {
  public:
    FunctionReader(const CodeMap& code, const IrqLandmarks& marks) : code_(code), marks_(marks) {}

    /// What is missing, or nothing.
    std::string read(IrqFunction& out) {
        if (std::string why = decode(out.start); !why.empty())
            return why;
        auto enters = places_of(Flow::call, marks_.irqentry_enter);
        if (enters.size() != 1)
            return "it does not call irqentry_enter once";
        entered_ = enters.front();
        return places_of(Flow::call, marks_.irq_enter_rcu).empty() ? read_inlined(out)
                                                                   : read_bracketed(out);
    }

  private:
    std::string decode(Gva start) {
        const Function* function = code_.function(start);
        if (!function || function->start != start)
            return "it is no function of the kernel's text";
        if (function->unclear_from < function->end)
            return "its code is not understood to its end";
        end_ = function->end;
        if (end_ - start > longest_function)
            return "it is too long";
        if (function->computed_jump)
            return "it has a computed jump";
        for (Gva at = start; at < end_;) {
            auto instruction = code_.instruction(at);
            if (!instruction)
                return "its code is not understood";
            at = instruction->end();
            instructions_.push_back(*instruction);
        }
        return {};
    }

    /// Indices of the calls of, or jumps to, a function.
    std::vector<size_t> places_of(Flow flow, Gva target) const {
        std::vector<size_t> found;
        for (size_t i = 0; i < instructions_.size(); i++)
            if (flow_of(instructions_[i]) == flow && instructions_[i].branch_target() == target)
                found.push_back(i);
        return found;
    }

    /// The next call behind `i`, if nothing but straight code leads there.
    std::optional<size_t> next_call(size_t i) const {
        for (i++; i < instructions_.size(); i++) {
            Flow flow = flow_of(instructions_[i]);
            if (flow == Flow::call)
                return i;
            if (flow != Flow::next)
                break;
        }
        return std::nullopt;
    }

    /// True if a jump of the function leads into (from, to].
    bool jumped_into(Gva from, Gva to) const {
        return std::any_of(instructions_.begin(), instructions_.end(), [&](const Instruction& one) {
            auto target = one.branch_target();
            return target && *target > from && *target <= to;
        });
    }

    std::string read_bracketed(IrqFunction& out) const {
        auto begins = places_of(Flow::call, marks_.irq_enter_rcu);
        if (places_of(Flow::call, marks_.irq_exit_rcu).size() != begins.size())
            return "it calls irq_enter_rcu and irq_exit_rcu not alike";
        for (size_t begin : begins) {
            auto handler = next_call(begin);
            auto end = handler ? next_call(*handler) : std::nullopt;
            if (!end || instructions_[*end].branch_target() != marks_.irq_exit_rcu)
                return "between irq_enter_rcu and irq_exit_rcu it does not call one handler";
            if (begin < entered_ ||
                jumped_into(instructions_[begin].address, instructions_[*end].address))
                return "its handler can be reached past irq_enter_rcu";
            out.entries.push_back(instructions_[*handler].address);
            out.exits.push_back(instructions_[*handler].end());
        }
        return {};
    }

    std::string read_inlined(IrqFunction& out) const {
        Gva entry = instructions_[entered_].end();
        if (entry >= end_ || jumped_into(instructions_[entered_].address, entry))
            return "its handler can be reached past irqentry_enter";
        for (const Instruction& one : instructions_) {
            Flow flow = flow_of(one);
            bool leaves = one.branch_target() == marks_.irqentry_exit;
            if (leaves && flow != Flow::jump && flow != Flow::call)
                return "it goes to irqentry_exit on a condition";
            if (leaves)
                out.exits.push_back(one.address);
            else if (flow == Flow::jump && !stays(one))
                return "it ends by jumping to another function than irqentry_exit";
        }
        if (out.exits.empty())
            return "it does not end in irqentry_exit";
        bool calls = !places_of(Flow::call, marks_.irqentry_exit).empty();
        bool returns = std::any_of(instructions_.begin(), instructions_.end(),
                                   [](const auto& one) { return flow_of(one) == Flow::ret; });
        if (returns && !calls)
            return "it returns without irqentry_exit";
        out.entries.push_back(entry);
        return {};
    }

    bool stays(const Instruction& jump) const {
        auto target = jump.branch_target();
        return target && *target >= instructions_.front().address && *target < end_;
    }

    const CodeMap& code_;
    const IrqLandmarks& marks_;
    std::vector<Instruction> instructions_;
    Gva end_;
    size_t entered_ = 0;
};

} // namespace

Result<IrqLandmarks> IrqLandmarks::find(const Kallsyms& symbols) {
    IrqLandmarks out;
    const struct {
        const char* name;
        Gva* to;
    } wanted[] = {
        {"__entry_text_start", &out.entry_start}, {"__entry_text_end", &out.entry_end},
        {"irqentry_enter", &out.irqentry_enter},  {"irqentry_exit", &out.irqentry_exit},
        {"irq_enter_rcu", &out.irq_enter_rcu},    {"irq_exit_rcu", &out.irq_exit_rcu},
    };
    for (const auto& one : wanted) {
        auto address = symbols.address(one.name);
        if (!address)
            return fail(address.error().in("find the kernel's entry code for interrupts"));
        *one.to = *address;
    }
    return out;
}

IrqFunctions find_irq_functions(std::span<const IdtEntry> idt, const CodeMap& code,
                                const IrqLandmarks& landmarks) {
    std::map<Gva, std::vector<uint8_t>> functions;
    std::map<Gva, UnwatchedVectors> lost;
    auto unwatched = [&](size_t vector, Gva handler, const char* why) {
        UnwatchedVectors& one = lost[handler];
        one.vectors.push_back(static_cast<uint8_t>(vector));
        one.handler = handler;
        one.why = why;
    };
    for (size_t vector = first_vector; vector < std::min(idt.size(), vector_count); vector++) {
        const IdtEntry& gate = idt[vector];
        if (!gate.present() || gate.dpl() != 0)
            continue;
        if (gate.type() != IdtEntry::interrupt_gate_type)
            unwatched(vector, gate.handler(), "its gate is no interrupt gate");
        else if (auto function = follow_entry(gate.handler(), code, landmarks))
            functions[*function].push_back(static_cast<uint8_t>(vector));
        else
            unwatched(vector, gate.handler(), "the entry code there calls no function");
    }
    IrqFunctions out;
    for (auto& [start, vectors] : functions) {
        IrqFunction function{start, vectors, vectors.size() > 1, {}, {}};
        std::string why = FunctionReader(code, landmarks).read(function);
        if (why.empty())
            out.watched.push_back(std::move(function));
        else
            out.unwatched.push_back({std::move(vectors), start, std::move(why)});
    }
    for (auto& [handler, one] : lost)
        out.unwatched.push_back(std::move(one));
    return out;
}

} // namespace shadowmon
