// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/code_map.h"

#include "src/hooks/code_head.h"
#include "src/hooks/possible_sources.h"

#include <algorithm>
#include <array>
#include <utility>

namespace shadowmon {

namespace {

constexpr std::byte int3{0xcc};

/// How far a branch of 8 bits leads.
constexpr uint64_t short_reach = 128;

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

/// Sweeps over functions as they are needed, and keeps what it found. By offsets from the start of
/// the code: each step of a sweep is made some million times.
class CodeMap::Sweep {
  public:
    /// Borrows `code`, which is at `start`.
    Sweep(Gva start, std::span<const std::byte> code, std::span<const Gva> entries,
          std::vector<Gva> thunks)
        : start_(start), code_(code), thunks_(std::move(thunks)), sources_(start.value, code),
          starts_(code.size()), targets_(code.size()) {
        const Gva end = start + code.size();
        for (Gva entry : entries) {
            if (entry < start || entry >= end ||
                (!functions_.empty() && entry <= functions_.back().start))
                continue;
            if (!functions_.empty())
                functions_.back().end = entry;
            functions_.push_back({.start = entry, .end = end, .unclear_from = {}});
            set(targets_, entry);
        }
        led_to_ = targets_;
        known_.resize(functions_.size());
    }

    std::span<const Function> functions() const { return functions_; }

    std::optional<size_t> number(size_t offset) const {
        auto above = std::upper_bound(functions_.begin(), functions_.end(), start_ + offset,
                                      [](Gva at, const Function& f) { return at < f.start; });
        if (above == functions_.begin())
            return std::nullopt;
        return static_cast<size_t>(above - functions_.begin()) - 1;
    }

    const Function& function(size_t number) {
        if (known_[number] != Known::all) {
            sweep(number);
            find_breakpoint_jumped_to(functions_[number]);
            known_[number] = Known::all;
        }
        return functions_[number];
    }

    bool is_start(size_t offset) {
        if (!starts_[offset] && swept_ < functions_.size())
            sweep_around(offset);
        return starts_[offset];
    }

    bool is_target(size_t offset) {
        if (!targets_[offset])
            sweep_sources(offset, offset + 1);
        return targets_[offset];
    }

    void add_target(size_t offset) { targets_[offset] = true; }

  private:
    using Bits = std::vector<bool>;
    enum class Known : uint8_t { nothing, instructions, all };

    void set(Bits& bits, Gva gva) const {
        if (gva >= start_ && gva - start_ < bits.size())
            bits[gva - start_] = true;
    }

    void sweep(size_t number);
    void note_operands(const CodeHead& head, Gva end, Function& function);
    void sweep_around(size_t offset) {
        if (auto around = number(offset))
            sweep(*around);
    }
    void sweep_sources(size_t from, size_t to);
    void find_breakpoint_jumped_to(Function& function);

    Gva start_;
    std::span<const std::byte> code_;
    std::vector<Gva> thunks_;
    PossibleSources sources_;
    std::vector<Function> functions_; ///< ascending
    std::vector<Known> known_;        ///< of each function
    size_t swept_ = 0;                ///< functions of which something is known
    bool narrow_swept_ = false;       ///< those with what may be a branch of 16 bits
    Bits starts_;
    Bits targets_;
    Bits led_to_; ///< targets by a symbol, or by a jump or call of code that is clear
};

void CodeMap::Sweep::sweep(size_t number) {
    if (known_[number] != Known::nothing)
        return;
    known_[number] = Known::instructions;
    swept_++;
    Function& function = functions_[number];
    function.unclear_from = function.end;
    auto unclear = [&](size_t at) {
        function.unclear_from = std::min(function.unclear_from, start_ + at);
    };
    const auto code = code_.first(function.end - start_);
    bool falls_into = false;
    for (size_t at = function.start - start_; at < code.size();) {
        auto rest = code.subspan(at);
        if (rest[0] == int3) { // Common and quickly known: a third of the text is filled with it.
            auto filled =
                std::find_if(rest.begin(), rest.end(), [](std::byte b) { return b != int3; }) -
                rest.begin();
            auto first = starts_.begin() + static_cast<std::ptrdiff_t>(at);
            std::fill(first, first + filled, true);
            if (falls_into)
                unclear(at);
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
        note_operands(*head, start_ + at, function);
        at += trailer(*head, code.subspan(at));
    }
}

void CodeMap::Sweep::note_operands(const CodeHead& head, Gva end, Function& function) {
    bool jumps = head.kind == CodeHead::Kind::jump;
    if (head.is_relative) {
        Gva target = end + static_cast<uint64_t>(head.relative);
        set(targets_, target);
        if (end <= function.unclear_from)
            set(led_to_, target);
        if (jumps && std::binary_search(thunks_.begin(), thunks_.end(), target))
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

/// Afterwards all is known of what leads into that range.
void CodeMap::Sweep::sweep_sources(size_t from, size_t to) {
    if (swept_ == functions_.size())
        return;
    const size_t near_end = std::min(code_.size(), to + short_reach);
    for (size_t n = number(from < short_reach ? 0 : from - short_reach).value_or(0);
         n < functions_.size() && functions_[n].start < start_ + near_end; n++)
        sweep(n);
    for (const auto& source : sources_.of(static_cast<uint32_t>(from), static_cast<uint32_t>(to)))
        sweep_around(source.at);
    if (!std::exchange(narrow_swept_, true))
        for (uint32_t at : sources_.narrow())
            sweep_around(at);
}

void CodeMap::Sweep::find_breakpoint_jumped_to(Function& function) {
    const size_t end = function.unclear_from - start_;
    for (size_t at = function.start - start_; at < end; at++) {
        if (code_[at] != int3 || !starts_[at])
            continue;
        const size_t first = at;
        while (at < end && code_[at] == int3)
            at++;
        sweep_sources(first, at);
        auto run_end = led_to_.begin() + static_cast<std::ptrdiff_t>(at);
        auto jumped_to =
            std::find(led_to_.begin() + static_cast<std::ptrdiff_t>(first), run_end, true);
        if (jumped_to != run_end) {
            function.unclear_from = start_ + static_cast<size_t>(jumped_to - led_to_.begin());
            return;
        }
    }
}

CodeMap::CodeMap(Gva start, std::vector<std::byte> bytes, std::span<const Gva> entries,
                 std::vector<Gva> thunks)
    : start_(start), bytes_(std::move(bytes)),
      sweep_(std::make_unique<Sweep>(start_, bytes_, entries, std::move(thunks))) {}

CodeMap::CodeMap(CodeMap&&) noexcept = default;
CodeMap& CodeMap::operator=(CodeMap&&) noexcept = default;
CodeMap::~CodeMap() = default;

std::span<const std::byte> CodeMap::bytes(Gva from, Gva to) const {
    return std::span(bytes_).subspan(from - start_, to - from);
}

size_t CodeMap::function_count() const { return sweep_->functions().size(); }

Gva CodeMap::function_start(size_t number) const { return sweep_->functions()[number].start; }

std::optional<size_t> CodeMap::function_number(Gva gva) const {
    return contains(gva) ? sweep_->number(gva - start_) : std::nullopt;
}

const Function& CodeMap::function(size_t number) const { return sweep_->function(number); }

const Function* CodeMap::function(Gva gva) const {
    auto number = function_number(gva);
    return number ? &function(*number) : nullptr;
}

bool CodeMap::is_start(Gva gva) const { return contains(gva) && sweep_->is_start(gva - start_); }

bool CodeMap::is_target(Gva gva) const { return contains(gva) && sweep_->is_target(gva - start_); }

void CodeMap::add_target(Gva gva) {
    if (contains(gva))
        sweep_->add_target(gva - start_);
}

std::optional<Instruction> CodeMap::instruction(Gva gva) const {
    auto number = function_number(gva);
    if (!number || !is_start(gva))
        return std::nullopt;
    return Instruction::decode(gva, bytes(gva, sweep_->functions()[*number].end));
}

std::optional<Gva> CodeMap::start_around(Gva gva) const {
    auto number = function_number(gva);
    if (!number)
        return std::nullopt;
    for (Gva at = gva; at >= function_start(*number); at = at - 1)
        if (is_start(at))
            return at;
    return std::nullopt;
}

} // namespace shadowmon
