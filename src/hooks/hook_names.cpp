// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/hook_names.h"

#include "src/hooks/movable.h"

#include <algorithm>
#include <charconv>
#include <fnmatch.h>
#include <map>

namespace shadowmon {

namespace {

constexpr std::string_view return_suffix = "%return";
/// __x86_return_thunk, its_return_thunk and so on: which one depends on the CPU's flaws.
constexpr std::string_view return_thunk = "_return_thunk";

/// Instructions from a function's start in which its arguments are looked for.
constexpr unsigned prologue_length = 24;
constexpr size_t endbr_size = 4; // and of the NOP that the kernel makes of it
constexpr size_t most_similar = 5;
constexpr size_t most_addresses = 8;

constexpr ZydisRegister argument_registers[] = {ZYDIS_REGISTER_RDI, ZYDIS_REGISTER_RSI,
                                                ZYDIS_REGISTER_RDX, ZYDIS_REGISTER_RCX,
                                                ZYDIS_REGISTER_R8,  ZYDIS_REGISTER_R9};

std::optional<uint64_t> parse_number(std::string_view text) {
    int base = 10;
    if (text.starts_with("0x") || text.starts_with("0X")) {
        text.remove_prefix(2);
        base = 16;
    }
    uint64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

bool is_pattern(std::string_view word) {
    return word.find_first_of("*?[") != std::string_view::npos;
}

bool is_text_type(char type) { return type == 't' || type == 'T' || type == 'w' || type == 'W'; }

bool changes_arguments(const Instruction& instruction) {
    return std::any_of(std::begin(argument_registers), std::end(argument_registers),
                       [&](ZydisRegister reg) { return instruction.writes(reg); });
}

/// How many letters have to change to make one name of the other; at most `limit`.
size_t distance(std::string_view a, std::string_view b, size_t limit) {
    if (std::max(a.size(), b.size()) - std::min(a.size(), b.size()) >= limit)
        return limit;
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++)
        row[j] = j;
    for (size_t i = 1; i <= a.size(); i++) {
        size_t corner = std::exchange(row[0], i);
        for (size_t j = 1; j <= b.size(); j++) {
            size_t change = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
        }
    }
    return std::min(row.back(), limit);
}

} // namespace

NamePattern::NamePattern(std::string pattern)
    : pattern_(std::move(pattern)), plain_(pattern_.find_first_of("*?[\\")) {
    plain_ = std::min(plain_, pattern_.size());
}

bool NamePattern::fits(std::string_view name) const {
    return fnmatch(pattern_.c_str(), std::string(name).c_str(), 0) == 0;
}

PlaceWord PlaceWord::parse(const std::string& word) {
    PlaceWord out{{}, word, false};
    size_t colon = word.find(':');
    if (colon == std::string::npos)
        return out;
    out.module = word.substr(0, colon);
    out.name = word.substr(colon + 1);
    if (out.module == "vmlinux") {
        out.module.clear();
        out.kernel_only = true;
    }
    return out;
}

bool PlaceWord::is_pattern() const { return shadowmon::is_pattern(name); }

std::string PlaceWord::function() const {
    std::string function = name;
    if (function.size() > return_suffix.size() && function.ends_with(return_suffix))
        function.resize(function.size() - return_suffix.size());
    return function.substr(0, function.find('+'));
}

std::set<Gva> find_return_thunks(const Kallsyms& kernel) {
    std::set<Gva> thunks;
    for (size_t i = 0; i < kernel.size(); i++)
        if (kernel.name(i).ends_with(return_thunk))
            thunks.insert(Gva(kernel[i].value));
    return thunks;
}

HookNames::HookNames(const HookPlanner& planner, const Kallsyms& symbols,
                     std::set<Gva> return_thunks, Calls calls)
    : planner_(planner), symbols_(symbols), calls_(calls),
      return_thunks_(std::move(return_thunks)) {}

bool HookNames::is_function(const Symbol& symbol) const {
    return !symbol.absolute && is_text_type(symbol.type) &&
           planner_.code().map.contains(Gva(symbol.value));
}

std::string HookNames::similar(const std::string& name) const {
    constexpr size_t limit = 4;
    std::set<std::pair<size_t, std::string>> best;
    for (size_t i = 0; i < symbols_.size(); i++) {
        Symbol symbol = symbols_[i];
        if (!is_function(symbol))
            continue;
        bool part = name.size() >= 3 && symbol.name.find(name) != std::string_view::npos;
        size_t far = part ? 1 : distance(name, symbol.name, limit);
        if (far < limit && far * 2 < name.size() + 1)
            best.emplace(far, symbol.name);
        if (best.size() > most_similar)
            best.erase(std::prev(best.end()));
    }
    if (best.empty())
        return {};
    std::string text = "; similar: ";
    for (bool first = true; const auto& [far, other] : best)
        text += (std::exchange(first, false) ? "" : ", ") + other;
    return text;
}

Result<Gva> HookNames::function_named(const std::string& name) const {
    std::set<Gva> found;
    std::optional<Symbol> other;
    for (const Symbol& symbol : symbols_.find_all(name)) {
        if (is_function(symbol))
            found.insert(Gva(symbol.value));
        else
            other = symbol;
    }
    if (found.size() == 1)
        return *found.begin();
    if (found.size() > 1) {
        std::string text;
        size_t n = 0;
        for (Gva at : found)
            if (n++ < most_addresses)
                text += fmt::format("{}{:#x}", n > 1 ? ", " : "", at.value);
        return failf("\"{}\" is the name of {} functions; name one by its address: {}{}", own(name),
                     found.size(), text, n > most_addresses ? ", ..." : "");
    }
    if (other)
        return failf("\"{}\" is no function of the kernel's text ({:#x} is {})", own(name),
                     other->value, is_text_type(other->type) ? "code for booting" : "data");
    return failf("{} has no function \"{}\"{}",
                 planner_.module().empty() ? "the guest's kernel" : "module " + planner_.module(),
                 name, similar(name));
}

Result<NamedPlace> HookNames::place_at(Gva at, std::string name) const {
    auto displaced = planner_.plan(at);
    if (!displaced)
        return fail(displaced.error());
    return NamedPlace{std::move(name), std::move(*displaced)};
}

/// ftrace's NOP, which is the first instruction or the one behind the mark of an entry.
std::optional<Gva> HookNames::call_place(Gva function) const {
    for (Gva at : {function, function + endbr_size})
        if (planner_.judge(at).gate == Gate::call)
            return at;
    return std::nullopt;
}

/// Walks on from the start as long as nothing has changed the arguments and nobody else arrives.
Result<NamedPlace> HookNames::entry_of(Gva function, const std::string& name,
                                       std::vector<std::string>& notes) const {
    const CodeMap& map = planner_.code().map;
    const Function* around = map.function(function);
    if (auto nop = calls_ == Calls::wanted ? call_place(function) : std::nullopt)
        return NamedPlace{name, planner_.displaced(*nop, planner_.judge(*nop))};
    Judgement first_refusal;
    Gva refused_at;
    Gva at = function;
    for (unsigned i = 0; around && i < prologue_length && at < around->end; i++) {
        if (at != function && map.is_target(at))
            break;
        Judgement judgement = planner_.judge(at);
        auto instruction = map.instruction(at);
        if (judgement.gate == Gate::call && calls_ == Calls::avoided)
            judgement = {Refusal::ftrace};
        if (judgement.refusal == Refusal::none) {
            if (at != function && first_refusal.refusal != Refusal::none)
                notes.push_back(fmt::format("{}: hooked at {}, because {} cannot be: {}", name,
                                            planner_.where(at), planner_.where(refused_at),
                                            describe(first_refusal.refusal)));
            return NamedPlace{name, planner_.displaced(at, judgement)};
        }
        // Every function begins with what the kernel itself keeps there. While ftrace traces the
        // function, its NOP is a CALL, which comes back with the arguments.
        bool usual = judgement.refusal == Refusal::ftrace || judgement.refusal == Refusal::endbr;
        if (judgement.refusal == Refusal::ftrace && instruction &&
            flow_of(*instruction) == Flow::call) {
            at = instruction->end();
            continue;
        }
        if (!usual && first_refusal.refusal == Refusal::none) {
            first_refusal = judgement;
            refused_at = at;
        }
        if (!instruction || flow_of(*instruction) != Flow::next || changes_arguments(*instruction))
            break;
        at = instruction->end();
    }
    auto why = planner_.plan(first_refusal.refusal == Refusal::none ? at : refused_at);
    return failf("{}: no instruction at its beginning can be hooked: {}", name,
                 why ? "the arguments are gone by then" : why.error().message());
}

bool HookNames::is_return(const Instruction& instruction) const {
    if (flow_of(instruction) == Flow::ret)
        return true;
    auto target = instruction.branch_target();
    if (!target || flow_of(instruction) != Flow::jump)
        return false;
    return return_thunks_.count(*target) > 0;
}

Result<std::vector<NamedPlace>> HookNames::returns_of(Gva start, const std::string& function,
                                                      std::vector<std::string>& notes) const {
    const std::string name = own(function);
    const CodeMap& map = planner_.code().map;
    std::vector<NamedPlace> places;
    unsigned tail_calls = 0;
    // What the compiler split off lies elsewhere, and may return as well.
    std::vector<const Function*> parts = {map.function(start)};
    for (const Symbol& cold : symbols_.find_all(function + ".cold"))
        if (is_function(cold))
            parts.push_back(map.function(Gva(cold.value)));
    for (const Function* part : parts) {
        if (!part)
            return failf("{}: no function of the kernel's text", name);
        if (part->unclear_from < part->end)
            return failf("{}: its code from {} on is not understood, so its returns are not known",
                         name, planner_.where(part->unclear_from));
        for (Gva at = part->start; at < part->end;) {
            auto instruction = map.instruction(at);
            if (!instruction)
                return failf("{}: no instruction at {}", name, planner_.where(at));
            auto target = instruction->branch_target();
            if (is_return(*instruction)) {
                auto place = place_at(at, name + std::string(return_suffix));
                if (!place)
                    return fail(place.error().in(name + std::string(return_suffix)));
                places.push_back(std::move(*place));
            } else if (target && flow_of(*instruction) == Flow::jump) {
                tail_calls += std::none_of(parts.begin(), parts.end(), [&](const Function* other) {
                    return *target >= other->start && *target < other->end;
                });
            }
            at = instruction->end();
        }
    }
    if (places.empty())
        return failf("{}: it returns nowhere{}", name,
                     tail_calls ? " by itself: other functions, which it jumps to, return for it"
                                : "");
    if (tail_calls)
        notes.push_back(fmt::format("{}: in {} places it ends by jumping to another function, "
                                    "which returns for it; that is not seen",
                                    name, tail_calls));
    return places;
}

Result<std::vector<NamedPlace>> HookNames::find_pattern(const std::string& pattern, bool returns,
                                                        size_t max_places,
                                                        std::vector<std::string>& notes) const {
    std::map<Gva, std::string> functions;
    const NamePattern wanted(pattern);
    for (size_t i = 0; i < symbols_.size(); i++) {
        if (!wanted.matches(symbols_.name(i)))
            continue;
        Symbol symbol = symbols_[i];
        if (is_function(symbol) && OffLimits::named(symbol.name) != Refusal::padding)
            functions.emplace(Gva(symbol.value), symbol.name);
    }
    if (functions.empty())
        return failf("no function of {} is named like \"{}\"",
                     planner_.module().empty() ? "the guest's kernel"
                                               : "module " + planner_.module(),
                     pattern);
    if (functions.size() > max_places)
        return failf("{}: {} functions are named so; there is room for {} hooks", own(pattern),
                     functions.size(), max_places);
    std::vector<NamedPlace> places;
    std::map<Refusal, size_t> refused;
    size_t passed_over = 0;
    for (const auto& [at, name] : functions) {
        std::vector<std::string> quiet;
        if (returns) {
            if (auto some = returns_of(at, name, quiet))
                std::move(some->begin(), some->end(), std::back_inserter(places));
            else
                passed_over++;
        } else if (auto place = entry_of(at, own(name), quiet)) {
            places.push_back(std::move(*place));
        } else {
            passed_over++;
            refused[planner_.judge(at).refusal]++;
        }
    }
    if (passed_over > 0) {
        std::string text = fmt::format("{}: {} of {} functions cannot be hooked", own(pattern),
                                       passed_over, functions.size());
        for (const auto& [why, count] : refused)
            if (why != Refusal::none && why != Refusal::ftrace && why != Refusal::endbr)
                text += fmt::format("; {}: {}", count, describe(why));
        notes.push_back(text);
    }
    if (places.empty())
        return fail(Error(notes.back()));
    return places;
}

Result<std::vector<NamedPlace>> HookNames::find_one(const std::string& word, size_t max_places,
                                                    std::vector<std::string>& notes) const {
    std::string name = word;
    bool returns = name.size() > return_suffix.size() && name.ends_with(return_suffix);
    if (returns)
        name.resize(name.size() - return_suffix.size());
    if (name.empty())
        return failf("a hook needs a name");
    if (is_pattern(name))
        return find_pattern(name, returns, max_places, notes);
    bool whole = !name.starts_with("0x") && name.find('+') == std::string::npos;
    if (returns && !whole)
        return failf("\"{}\": {} goes with the name of a function", word, return_suffix);
    auto at = address(name);
    if (!at)
        return fail(at.error());
    if (returns)
        return returns_of(*at, name, notes);
    auto place = whole ? entry_of(*at, own(name), notes)
                       : place_at(*at, name.starts_with("0x") ? planner_.where(*at) : own(name));
    if (!place)
        return fail(place.error());
    std::vector<NamedPlace> places;
    places.push_back(std::move(*place));
    return places;
}

Result<Gva> HookNames::address(const std::string& word) const {
    if (word.starts_with("0x")) {
        auto address = parse_number(word);
        return address ? Result<Gva>(Gva(*address)) : failf("\"{}\" is no address", word);
    }
    size_t plus = word.find('+');
    auto function = function_named(word.substr(0, plus));
    if (!function || plus == std::string::npos)
        return function;
    auto offset = parse_number(std::string_view(word).substr(plus + 1));
    if (!offset)
        return failf("\"{}\": behind the + a number is needed, decimal or with 0x", own(word));
    const Function* around = planner_.code().map.function(*function);
    uint64_t size = around ? around->end - *function : 0;
    if (*offset >= size)
        return failf("{}: the function is {:#x} bytes long", own(word), size);
    return *function + *offset;
}

Result<NamedPlaces> HookNames::find(const std::vector<std::string>& words,
                                    size_t max_places) const {
    NamedPlaces all;
    std::set<Gva> seen;
    for (const std::string& word : words) {
        auto places = find_one(word, max_places, all.notes);
        if (!places)
            return fail(places.error());
        for (NamedPlace& place : *places)
            if (seen.insert(place.displaced.address()).second)
                all.places.push_back(std::move(place));
        if (all.places.size() > max_places)
            return failf("{}: that makes {} hooks; there is room for {} hooks", word,
                         all.places.size(), max_places);
    }
    return all;
}

} // namespace shadowmon
