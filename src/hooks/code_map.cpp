// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/code_map.h"

#include <algorithm>
#include <array>

namespace shadowmon {

namespace {

constexpr std::byte int3{0xcc};

/// Behind a UD2, these tell Xen to emulate the instruction that follows; "js; outsb" to decoders.
constexpr std::array xen_prefix{std::byte{'x'}, std::byte{'e'}, std::byte{'n'}};

/// Behind these, INT3 is padding or stops speculation: nothing falls through to it.
bool ends_flow(const CodeHead& head) {
    return head.kind == CodeHead::Kind::ends_flow || head.kind == CodeHead::Kind::jump ||
           head.kind == CodeHead::Kind::undefined;
}

/// The bytes behind an instruction that belong to it although the processor stops before them.
size_t trailer(const CodeHead& head, std::span<const std::byte> behind) {
    bool xen = head.kind == CodeHead::Kind::undefined && behind.size() >= xen_prefix.size() &&
               std::equal(xen_prefix.begin(), xen_prefix.end(), behind.begin());
    return xen ? xen_prefix.size() : 0;
}

} // namespace

/// What tells breakpoints from padding.
struct CodeMap::Evidence {
    Bits led_to;                ///< by a symbol, or by a jump or call of code that is clear
    std::vector<Gva> int3_runs; ///< beginnings of those that nothing falls into
};

CodeMap::CodeMap(Gva start, std::vector<std::byte> bytes, std::span<const Gva> entries,
                 std::span<const Gva> thunks)
    : start_(start), bytes_(std::move(bytes)), starts_(bytes_.size()), targets_(bytes_.size()) {
    for (Gva entry : entries) {
        if (!contains(entry) || (!functions_.empty() && entry <= functions_.back().start))
            continue;
        if (!functions_.empty())
            functions_.back().end = entry;
        functions_.push_back({.start = entry, .end = end(), .unclear_from = {}});
        set(targets_, entry);
    }
    Evidence evidence{targets_, {}};
    for (Function& function : functions_)
        sweep(function, thunks, evidence);
    find_breakpoints_jumped_to(evidence);
}

std::span<const std::byte> CodeMap::bytes(Gva from, Gva to) const {
    return std::span(bytes_).subspan(from - start_, to - from);
}

const Function* CodeMap::function(Gva gva) const {
    if (!contains(gva))
        return nullptr;
    auto above = std::upper_bound(functions_.begin(), functions_.end(), gva,
                                  [](Gva at, const Function& f) { return at < f.start; });
    return above == functions_.begin() ? nullptr : &*(above - 1);
}

std::optional<Instruction> CodeMap::instruction(Gva gva) const {
    const Function* around = function(gva);
    if (!around || !is_start(gva))
        return std::nullopt;
    return Instruction::decode(gva, bytes(gva, around->end));
}

std::optional<Gva> CodeMap::start_around(Gva gva) const {
    const Function* around = function(gva);
    if (!around)
        return std::nullopt;
    for (Gva at = gva; at >= around->start; at = at - 1)
        if (is_start(at))
            return at;
    return std::nullopt;
}

void CodeMap::sweep(Function& function, std::span<const Gva> thunks, Evidence& evidence) {
    function.unclear_from = function.end;
    auto unclear = [&](size_t at) {
        function.unclear_from = std::min(function.unclear_from, start_ + at);
    };
    // By numbers from the start of the code: each step of this loop is made some million times.
    const std::span<const std::byte> code(bytes_.data(), function.end - start_);
    const size_t start = function.start - start_;
    bool falls_into = false;
    for (size_t at = start; at < code.size();) {
        auto rest = code.subspan(at);
        if (rest[0] == int3) { // Common and quickly known: a third of the text is filled with it.
            auto filled =
                std::find_if(rest.begin(), rest.end(), [](std::byte b) { return b != int3; }) -
                rest.begin();
            auto first = starts_.begin() + static_cast<std::ptrdiff_t>(at);
            std::fill(first, first + filled, true);
            if (falls_into)
                unclear(at);
            else if (at == start || bytes_[at - 1] != int3)
                evidence.int3_runs.push_back(start_ + at);
            falls_into = false;
            at += static_cast<size_t>(filled);
            continue;
        }
        auto head = read_head(rest);
        if (!head) {
            // What follows still tells of jumps, though perhaps of too many.
            unclear(at);
            at++;
            continue;
        }
        starts_[at] = true;
        at += head->length;
        falls_into = true;
        if (head->kind != CodeHead::Kind::plain) {
            // What a hook left of the instruction that it replaced is none.
            if (head->kind == CodeHead::Kind::gate_int)
                unclear(at);
            falls_into = !ends_flow(*head);
        } else if (!head->is_relative && !head->has_imm && !head->has_disp) {
            continue;
        }
        note_operands(*head, start_ + at, function, thunks, evidence);
        at += trailer(*head, code.subspan(at));
    }
}

void CodeMap::note_operands(const CodeHead& head, Gva end, Function& function,
                            std::span<const Gva> thunks, Evidence& evidence) {
    bool jumps = head.kind == CodeHead::Kind::jump;
    if (head.is_relative) {
        Gva target = end + static_cast<uint64_t>(head.relative);
        set(targets_, target);
        if (end <= function.unclear_from)
            set(evidence.led_to, target);
        if (jumps && std::binary_search(thunks.begin(), thunks.end(), target))
            function.computed_jump = true;
    } else if (jumps) {
        function.computed_jump = true;
    }
    if (head.has_imm)
        set(targets_, Gva(head.imm));
    if (head.has_disp) {
        auto disp = static_cast<uint64_t>(head.disp);
        set(targets_, head.disp_is_rip ? end + disp : Gva(disp));
    }
    if (head.kind == CodeHead::Kind::swapgs)
        function.changes_gs = true;
}

void CodeMap::find_breakpoints_jumped_to(const Evidence& evidence) {
    for (Gva run : evidence.int3_runs) {
        auto index = static_cast<size_t>(function(run) - functions_.data());
        Function& around = functions_[index];
        for (Gva at = run; at < around.end && bytes_[at - start_] == int3; at = at + 1) {
            if (test(evidence.led_to, at)) {
                around.unclear_from = std::min(around.unclear_from, at);
                break;
            }
        }
    }
}

} // namespace shadowmon
