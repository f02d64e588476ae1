// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kallsyms.h"
#include "src/hooks/hook_planner.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace shadowmon {

/// A place in the kernel that a user's word means, fit to be hooked.
struct NamedPlace {
    /// For events and lists: "vfs_read", "do_exit+0x2a", "vfs_read%return"; of a module
    /// "ext4:ext4_file_open".
    std::string name;
    Displaced displaced;
};

/// What a user's words mean.
struct NamedPlaces {
    std::vector<NamedPlace> places;
    std::vector<std::string> notes; ///< what the user should know: functions passed over, and why
};

/// A user's word for places, taken apart: [MODULE:]NAME, "vmlinux:NAME" for the kernel's own.
struct PlaceWord {
    std::string module; ///< may be a pattern, too
    std::string name;
    bool kernel_only = false;

    static PlaceWord parse(const std::string& word);
    bool is_address() const { return name.starts_with("0x"); }
    bool is_pattern() const;
    std::string function() const; ///< the name without +OFFSET and %return
};

/// A pattern with *, ? and [...], tried on very many names: most are told apart by how they begin.
class NamePattern {
  public:
    explicit NamePattern(std::string pattern);
    bool matches(std::string_view name) const {
        if (name.size() < plain_ || (plain_ > 0 && name.front() != pattern_.front()))
            return false;
        return std::equal(name.begin(), name.begin() + plain_, pattern_.begin()) && fits(name);
    }

  private:
    bool fits(std::string_view name) const;

    std::string pattern_;
    size_t plain_; ///< bytes before the first special one
};

/// What the kernel's functions jump to instead of a RET. Looks at every symbol.
std::set<Gva> find_return_thunks(const Kallsyms& kernel);

/// Finds the places that users name in one piece of code, the kernel's own or a module's
/// (place_finder.h knows them all):
///
///   FUNCTION          its beginning, where the arguments are still in their registers: behind
///                     ENDBR64, on the NOP of ftrace or behind it, or the next instruction that can
///                     be hooked
///   FUNCTION%return   every place where it returns
///   FUNCTION+OFFSET   the instruction there; the offset is decimal, or hexadecimal with 0x
///   0xADDRESS         the instruction there
///   nf_*              every function of a name like that (*, ?, [...]), also with %return; those
///                     that cannot be hooked are counted in a note
///
/// Borrows planner and symbols. Says for every word that means nothing why, and what might be
/// meant instead.
class HookNames {
  public:
    /// `calls`: whether a function's beginning may be its NOP for ftrace, with a hook by CALL.
    enum class Calls { wanted, avoided };
    HookNames(const HookPlanner& planner, const Kallsyms& symbols, Calls calls = Calls::wanted)
        : HookNames(planner, symbols, find_return_thunks(symbols), calls) {}

    /// `return_thunks` are the kernel's, for a module as well.
    HookNames(const HookPlanner& planner, const Kallsyms& symbols, std::set<Gva> return_thunks,
              Calls calls);

    /// The places of all words, none of them twice. All or none; `max_places` bounds them.
    Result<NamedPlaces> find(const std::vector<std::string>& words, size_t max_places) const;

    /// The places of one word without its module, which is this one's.
    Result<std::vector<NamedPlace>> find_one(const std::string& word, size_t max_places,
                                             std::vector<std::string>& notes) const;

    /// The address that FUNCTION, FUNCTION+OFFSET or 0xADDRESS means, whether or not it can be
    /// hooked. Of a function, its start.
    Result<Gva> address(const std::string& word) const;

    /// The place at the beginning of one function.
    Result<NamedPlace> beginning_of(Gva function, const std::string& name) const {
        std::vector<std::string> notes;
        return entry_of(function, name, notes);
    }

  private:
    Result<std::vector<NamedPlace>> find_pattern(const std::string& pattern, bool returns,
                                                 size_t max_places,
                                                 std::vector<std::string>& notes) const;
    Result<Gva> function_named(const std::string& name) const;
    Result<NamedPlace> entry_of(Gva function, const std::string& name,
                                std::vector<std::string>& notes) const;
    std::optional<Gva> call_place(Gva function) const;
    Result<std::vector<NamedPlace>> returns_of(Gva function, const std::string& name,
                                               std::vector<std::string>& notes) const;
    Result<NamedPlace> place_at(Gva at, std::string name) const;
    bool is_function(const Symbol& symbol) const;
    bool is_return(const Instruction& instruction) const;
    std::string similar(const std::string& name) const;
    std::string own(std::string_view name) const { return in_module(planner_.module(), name); }

    const HookPlanner& planner_;
    const Kallsyms& symbols_;
    const Calls calls_;
    std::set<Gva> return_thunks_; ///< what kernels jump to instead of a RET
};

} // namespace shadowmon
