// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/place_finder.h"

#include "src/hooks/module_reader.h"

#include <algorithm>
#include <set>

namespace shadowmon {

namespace {

constexpr size_t most_names = 20;

bool is_text_type(char type) { return type == 't' || type == 'T' || type == 'w' || type == 'W'; }

bool is_pattern(const std::string& word) { return word.find_first_of("*?[") != std::string::npos; }

/// True if the word means places of one module by its name.
bool names_module(const PlaceWord& what) {
    return !what.module.empty() && !is_pattern(what.module) && !what.name.empty() &&
           !what.is_address();
}

bool is_padding(std::string_view name) { return OffLimits::named(name) == Refusal::padding; }

/// Different functions that are named so and begin in that text.
size_t count(const Kallsyms& symbols, const std::string& pattern, Gva start, Gva end) {
    std::vector<uint64_t> found;
    const NamePattern wanted(pattern);
    for (size_t i = 0; i < symbols.size(); i++) {
        if (!wanted.matches(symbols.name(i)))
            continue;
        Symbol symbol = symbols[i];
        Gva at(symbol.value);
        if (!symbol.absolute && is_text_type(symbol.type) && !is_padding(symbol.name) &&
            at >= start && at < end)
            found.push_back(symbol.value);
    }
    std::sort(found.begin(), found.end());
    return static_cast<size_t>(std::unique(found.begin(), found.end()) - found.begin());
}

size_t count(const ModuleCode& module, const std::string& pattern) {
    const ModuleRange& text = module.module.text;
    return count(module.symbols.symbols, pattern, text.start, text.start + text.size);
}

bool has_function(const Kallsyms& symbols, const std::string& name) {
    auto found = symbols.find_all(name);
    return std::any_of(found.begin(), found.end(), [](const Symbol& symbol) {
        return !symbol.absolute && is_text_type(symbol.type);
    });
}

} // namespace

Result<const GuestModules*> PlaceFinder::modules() {
    if (!modules_) {
        auto found = read_modules(kernel_, memory_);
        if (!found)
            return fail(found.error());
        modules_ = std::move(*found);
    }
    return &*modules_;
}

Result<std::shared_ptr<ModuleCode>> PlaceFinder::symbols_of(const GuestModule& module) {
    std::shared_ptr<ModuleCode>& known = read_[module.object];
    if (!known) {
        auto symbols = read_module_symbols(kernel_, memory_, module);
        if (!symbols)
            return fail(symbols.error());
        known = std::make_shared<ModuleCode>(module, std::move(*symbols));
    }
    return known;
}

Result<std::shared_ptr<const ModuleCode>> PlaceFinder::code_of(const GuestModule& module) {
    if (!is_there(module))
        return failf("module {} cannot be hooked: it is {}", module.name, describe(module.state));
    auto known = symbols_of(module);
    if (!known)
        return fail(known.error());
    ModuleCode& code = **known;
    if (!code.planner) {
        std::vector<CoveredBytes> covered;
        for (const auto& [at, original] : covered_)
            covered.push_back({at, original});
        auto read = read_module_code(kernel_, memory_, module, code.symbols, covered);
        if (!read)
            return fail(read.error());
        code.planner.emplace(std::move(*read), policy_, &code.symbols.symbols, module.name);
    }
    return std::shared_ptr<const ModuleCode>(*known);
}

std::string PlaceFinder::loaded_names() const {
    if (modules_->modules.empty())
        return "; none is";
    std::string text;
    for (size_t i = 0; i < modules_->modules.size() && i < most_names; i++)
        text += (i ? ", " : "") + modules_->modules[i].name;
    text = fmt::format("; {} are: {}{}", modules_->modules.size(), text,
                       modules_->modules.size() > most_names ? ", ..." : "");
    for (const std::string& problem : modules_->problems)
        text += "; " + problem;
    return text;
}

/// Live modules of a name like the word's that have a function named so. What is left out is told
/// in `notes`.
Result<std::vector<const GuestModule*>> PlaceFinder::modules_with(const PlaceWord& what,
                                                                  std::vector<std::string>* notes) {
    auto all = modules();
    if (!all)
        return fail(all.error());
    if (notes)
        notes->insert(notes->end(), (*all)->problems.begin(), (*all)->problems.end());
    std::vector<const GuestModule*> found;
    for (const GuestModule& module : (*all)->modules) {
        if (!what.module.empty() && !NamePattern(what.module).matches(module.name))
            continue;
        std::string why;
        if (!is_there(module))
            why = fmt::format("it is {}", describe(module.state));
        else if (auto code = symbols_of(module); !code)
            why = code.error().message();
        else if (count(**code, what.function()) > 0)
            found.push_back(&module);
        if (!why.empty() && notes)
            notes->push_back(fmt::format("module {} is left out: {}", module.name, why));
    }
    return found;
}

/// A plain name: the kernel goes first.
Result<std::shared_ptr<const ModuleCode>> PlaceFinder::home_of_name(const PlaceWord& what) {
    const std::string name = what.function();
    if (what.kernel_only || has_function(kernel_.symbols, name))
        return nullptr;
    auto found = modules_with(what, nullptr);
    if (!found || found->empty())
        return nullptr; // The kernel's names say what might be meant.
    if (found->size() == 1)
        return code_of(*found->front());
    std::string names;
    for (const GuestModule* module : *found)
        names += fmt::format("{}{}:{}", names.empty() ? "" : ", ", module->name, name);
    return failf("\"{}\" is a function of {} modules; say which: {}", name, found->size(), names);
}

Result<std::shared_ptr<const ModuleCode>> PlaceFinder::home_of(const PlaceWord& what) {
    if (what.is_address()) {
        Gva at(std::strtoull(what.name.c_str(), nullptr, 16));
        if (kernel_.image.contains(at))
            return nullptr;
        auto all = modules();
        const GuestModule* module = all ? (*all)->around(at) : nullptr;
        if (!module)
            return nullptr;
        return code_of(*module);
    }
    if (what.module.empty())
        return home_of_name(what);
    auto all = modules();
    if (!all)
        return fail(all.error());
    const GuestModule* module = (*all)->find(what.module);
    if (!module)
        return failf("module \"{}\" is not loaded in the guest{}", what.module, loaded_names());
    return code_of(*module);
}

Result<std::vector<FoundPlace>>
PlaceFinder::find_in(const std::shared_ptr<const ModuleCode>& module, const std::string& name,
                     size_t max_places, std::vector<std::string>& notes) {
    const HookPlanner* planner = module ? &*module->planner : nullptr;
    if (!module) {
        auto kernel = kernel_planner_();
        if (!kernel)
            return fail(kernel.error());
        planner = *kernel;
    }
    HookNames names(*planner, module ? module->symbols.symbols : kernel_.symbols, return_thunks_,
                    calls_);
    auto places = names.find_one(name, max_places, notes);
    if (!places)
        return fail(places.error());
    std::vector<FoundPlace> found;
    for (NamedPlace& place : *places)
        found.push_back({std::move(place), module, false});
    return found;
}

/// In the kernel's text, without reading it.
size_t PlaceFinder::count_in_kernel(const std::string& pattern) const {
    auto start = kernel_.symbols.address("_stext");
    auto end = kernel_.symbols.address("_etext");
    return start && end ? count(kernel_.symbols, pattern, *start, *end) : 0;
}

/// A word with a pattern in it.
Result<std::vector<FoundPlace>> PlaceFinder::find_all(const std::string& word,
                                                      const PlaceWord& what, size_t max_places,
                                                      std::vector<std::string>& notes) {
    const std::string pattern = what.function();
    std::vector<std::shared_ptr<const ModuleCode>> homes;
    size_t functions = 0;
    auto too_many = [&] {
        return failf("{}: {} functions are named so; there is room for {} hooks", word, functions,
                     max_places);
    };
    if (what.module.empty()) {
        functions = count_in_kernel(pattern);
        if (functions > max_places) // Modules are not looked at: reading their code takes long.
            return too_many();
        if (functions > 0)
            homes.push_back(nullptr);
    }
    if (!what.kernel_only) {
        auto with = modules_with(what, &notes);
        if (!with && !what.module.empty())
            return fail(with.error());
        if (!with)
            notes.push_back("modules are not searched: " + with.error().message());
        for (size_t i = 0; with && i < with->size(); i++) {
            auto code = code_of(*(*with)[i]);
            if (code) {
                functions += count(**code, pattern);
                homes.push_back(*code);
            } else {
                notes.push_back(code.error().message());
            }
        }
    }
    if (homes.empty())
        return failf("no function of {} is named like \"{}\"",
                     what.kernel_only      ? "the guest's kernel"
                     : what.module.empty() ? "the guest's kernel or its modules"
                                           : "the guest's modules",
                     word);
    if (functions > max_places)
        return too_many();
    std::vector<FoundPlace> found;
    std::optional<Error> failed;
    for (const auto& home : homes) {
        auto places = find_in(home, what.name, max_places, notes);
        if (places)
            std::move(places->begin(), places->end(), std::back_inserter(found));
        else if (!failed)
            failed = places.error();
    }
    if (found.empty())
        return fail(*failed);
    if (failed)
        notes.push_back(failed->message());
    return found;
}

Result<std::vector<FoundPlace>> PlaceFinder::find_one(const std::string& word, size_t max_places,
                                                      std::vector<std::string>& notes) {
    PlaceWord what = PlaceWord::parse(word);
    if (what.name.empty())
        return failf("a hook needs a name");
    if (what.is_pattern() || is_pattern(what.module))
        return find_all(word, what, max_places, notes);
    auto home = home_of(what);
    if (!home)
        return fail(home.error());
    auto found = find_in(*home, what.name, max_places, notes);
    bool elsewhere = what.module.empty() && !what.kernel_only && modules_ && !*home;
    if (!found && elsewhere && !has_function(kernel_.symbols, what.function()))
        return failf("{} (nor has one of its {} modules; one that is loaded later has to be named: "
                     "MODULE:{})",
                     found.error().message(), modules_->modules.size(), what.name);
    return found;
}

/// Nothing if its places can be looked for.
std::optional<std::string> PlaceFinder::why_waiting(const std::string& word) {
    PlaceWord what = PlaceWord::parse(word);
    auto all = names_module(what) ? modules() : Result<const GuestModules*>(nullptr);
    if (!all || !*all)
        return std::nullopt;
    const GuestModule* module = (*all)->find(what.module);
    if (!module)
        return fmt::format("{} is pending: module \"{}\" is not loaded in the guest{}", word,
                           what.module, loaded_names());
    if (!is_there(*module))
        return fmt::format("{} is pending: module {} is {}", word, module->name,
                           describe(module->state));
    return std::nullopt;
}

Result<FoundPlaces> PlaceFinder::find(const std::vector<std::string>& words, size_t max_places) {
    FoundPlaces all;
    std::set<Gva> seen;
    for (const std::string& word : words) {
        if (auto why = why_waiting(word)) {
            all.waiting.push_back(word);
            all.notes.push_back(std::move(*why));
            continue;
        }
        auto places = find_one(word, max_places, all.notes);
        if (!places)
            return fail(places.error());
        for (FoundPlace& place : *places)
            place.names_module = place.module && names_module(PlaceWord::parse(word));
        for (FoundPlace& place : *places)
            if (seen.insert(place.named.displaced.address()).second)
                all.places.push_back(std::move(place));
        if (all.places.size() > max_places)
            return failf("{}: that makes {} hooks; there is room for {} hooks", word,
                         all.places.size(), max_places);
    }
    return all;
}

Result<PlaceFinder::Located> PlaceFinder::locate(const std::string& word) {
    PlaceWord what = PlaceWord::parse(word);
    auto home = home_of(what);
    if (!home)
        return fail(home.error());
    const HookPlanner* planner = *home ? &*(*home)->planner : nullptr;
    if (!planner) {
        auto kernel = kernel_planner_();
        if (!kernel)
            return fail(kernel.error());
        planner = *kernel;
    }
    HookNames names(*planner, *home ? (*home)->symbols.symbols : kernel_.symbols, return_thunks_,
                    calls_);
    auto at = names.address(what.name);
    if (!at)
        return fail(at.error());
    return Located{*at, planner, *home};
}

} // namespace shadowmon
