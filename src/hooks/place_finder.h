// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/modules.h"
#include "src/hooks/hook_names.h"
#include "src/hooks/kernel_reader.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace shadowmon {

/// A module whose code was read, with what plans hooks in it. Not movable: the planner names places
/// by the symbols here.
struct ModuleCode {
    ModuleCode(GuestModule of, ModuleSymbols its)
        : module(std::move(of)), symbols(std::move(its)) {}
    ModuleCode(const ModuleCode&) = delete;
    ModuleCode& operator=(const ModuleCode&) = delete;

    GuestModule module;
    ModuleSymbols symbols;
    std::optional<HookPlanner> planner; ///< nothing: only its symbols were read
};

struct FoundPlace {
    NamedPlace named;
    std::shared_ptr<const ModuleCode> module; ///< null: the kernel's own code
    bool names_module;                        ///< the word did, as the one module
};

struct FoundPlaces {
    std::vector<FoundPlace> places;
    std::vector<std::string> waiting; ///< words whose module is not there, and why in `notes`
    std::vector<std::string> notes;   ///< what the user should know
};

/// Finds the places that users name, in the kernel's own code and in its modules:
///
///   NAME           as HookNames has it: of the kernel; if it has no such function, of the module
///                  that has
///   MODULE:NAME    of that module; "vmlinux" is the kernel itself
///   0xADDRESS      wherever that is
///   nf_*           all functions of a name like that, of the kernel and of all modules; MODULE may
///                  be a pattern as well
///
/// For one command: modules are looked at when a word calls for it, and seen as they were then.
/// Borrows all it is given. `kernel_planner` is asked once a word means the kernel's own code, for
/// reading that takes long.
class PlaceFinder {
  public:
    using KernelPlanner = std::function<Result<const HookPlanner*>()>;
    using Covered = std::vector<std::pair<Gva, std::vector<std::byte>>>;

    PlaceFinder(const KernelInfo& kernel, const PhysicalMemory& memory, HookPolicy policy,
                Covered covered, KernelPlanner kernel_planner, std::set<Gva> return_thunks,
                HookNames::Calls calls = HookNames::Calls::wanted)
        : kernel_(kernel), memory_(memory), policy_(policy), covered_(std::move(covered)),
          kernel_planner_(std::move(kernel_planner)), return_thunks_(std::move(return_thunks)),
          calls_(calls) {}

    /// Modules that are about to be initialized count as loaded.
    void take_coming_modules() { coming_too_ = true; }

    /// Those of the guest, read once.
    Result<const GuestModules*> modules();
    bool is_there(const GuestModule& module) const {
        return module.state == GuestModule::State::live ||
               (coming_too_ && module.state == GuestModule::State::coming);
    }

    /// The places of all words, none of them twice. All or none; `max_places` bounds them.
    Result<FoundPlaces> find(const std::vector<std::string>& words, size_t max_places);

    /// The address that FUNCTION, FUNCTION+OFFSET or 0xADDRESS means, whether or not it can be
    /// hooked; of a function, its start.
    struct Located {
        Gva at;
        const HookPlanner* planner;
        std::shared_ptr<const ModuleCode> module;
    };
    Result<Located> locate(const std::string& word);

    /// One module of the guest, read.
    Result<std::shared_ptr<const ModuleCode>> code_of(const GuestModule& module);

  private:
    Result<std::vector<FoundPlace>> find_one(const std::string& word, size_t max_places,
                                             std::vector<std::string>& notes);
    Result<std::vector<FoundPlace>> find_all(const std::string& word, const PlaceWord& what,
                                             size_t max_places, std::vector<std::string>& notes);
    Result<std::vector<FoundPlace>> find_in(const std::shared_ptr<const ModuleCode>& module,
                                            const std::string& name, size_t max_places,
                                            std::vector<std::string>& notes);
    /// The module that a word means; null: the kernel.
    Result<std::shared_ptr<const ModuleCode>> home_of(const PlaceWord& what);
    Result<std::shared_ptr<const ModuleCode>> home_of_name(const PlaceWord& what);
    Result<std::vector<const GuestModule*>> modules_with(const PlaceWord& what,
                                                         std::vector<std::string>* notes);
    std::optional<std::string> why_waiting(const std::string& word);
    Result<std::shared_ptr<ModuleCode>> symbols_of(const GuestModule& module);
    size_t count_in_kernel(const std::string& pattern) const;
    std::string loaded_names() const;

    const KernelInfo& kernel_;
    const PhysicalMemory& memory_;
    const HookPolicy policy_;
    const Covered covered_;
    const KernelPlanner kernel_planner_;
    const std::set<Gva> return_thunks_;
    const HookNames::Calls calls_;
    bool coming_too_ = false;
    std::optional<GuestModules> modules_;
    std::map<Gva, std::shared_ptr<ModuleCode>> read_; ///< by the module's object
};

} // namespace shadowmon
