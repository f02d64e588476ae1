// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/module_reader.h"

#include "abi/layout.h"
#include "src/hooks/kernel_tables.h"

#include <algorithm>
#include <cstring>

namespace shadowmon {

namespace {

constexpr uint64_t reach = uint64_t{1} << 31; // of a rel32
constexpr uint64_t chunk_size = 1 << 20;

bool is_text_type(char type) { return type == 't' || type == 'T' || type == 'w' || type == 'W'; }

/// Both ways: a CALL or INT at a hook to the gate, displaced code back to the module.
Status check_reach(const ModuleRange& text) {
    constexpr Gva first(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET);
    constexpr Gva end(SM_COMPARTMENT_GVA + SM_COMPARTMENT_SIZE);
    if (text.start < end || text.end() < text.start || text.end() - first >= reach)
        return failf("its code at {:#x}..{:#x} is out of the monitor's reach", text.start.value,
                     text.end().value);
    return {};
}

/// Between the sections of the text there are zeros, which belong to no function.
std::vector<Gva> gaps(const GuestModule& module, const std::vector<std::byte>& text,
                      const ModuleSymbols& symbols) {
    std::vector<Gva> found;
    for (Gva end : symbols.ends) {
        if (!module.text.contains(end) || text[end - module.text.start] != std::byte{0})
            continue;
        auto around = symbols.symbols.find_by_address(end);
        if (around && Gva(around->value) < end)
            found.push_back(end);
    }
    return found;
}

/// Pointers into the text in what else the module has in memory.
Status add_pointers(CodeMap& map, const GuestModule& module, const VirtualMemory& memory) {
    std::vector<std::byte> chunk;
    for (const ModuleRange& range : module.data) {
        for (uint64_t done = 0; done < range.size; done += chunk.size()) {
            chunk.resize(std::min(chunk_size, range.size - done));
            SM_TRY(memory.read(range.start + done, chunk));
            for (size_t i = 0; i + sizeof(uint64_t) <= chunk.size(); i += sizeof(uint64_t)) {
                // Code is no table, and names itself by its instructions.
                if (module.text.contains(range.start + done + i))
                    continue;
                uint64_t word = 0;
                std::memcpy(&word, chunk.data() + i, sizeof(word));
                map.add_target(Gva(word));
            }
        }
    }
    return {};
}

std::vector<Gva> indirect_thunks(const Kallsyms& symbols) {
    std::vector<Gva> thunks;
    for (size_t i = 0; i < symbols.size(); i++)
        if (is_indirect_thunk(symbols[i].name))
            thunks.emplace_back(symbols[i].value);
    return thunks;
}

/// Functions as the symbols and the gaps say it, and which of them may carry no hook.
struct Entries {
    std::vector<Gva> starts; ///< ascending
    std::vector<std::pair<Gva, Refusal>> limits;
};

Entries find_entries(const GuestModule& module, const ModuleSymbols& symbols,
                     const std::vector<Gva>& gaps) {
    Entries out;
    for (size_t i = 0; i < symbols.symbols.size(); i++) {
        Symbol symbol = symbols.symbols[i];
        Gva at(symbol.value);
        if (!module.text.contains(at) || !is_text_type(symbol.type))
            continue;
        out.starts.push_back(at);
        if (Refusal why = OffLimits::named(symbol.name); why != Refusal::none)
            out.limits.emplace_back(at, why);
        if (module.noinstr.contains(at))
            out.limits.emplace_back(at, Refusal::noinstr);
    }
    for (Gva gap : gaps) {
        out.starts.push_back(gap);
        out.limits.emplace_back(gap, Refusal::padding);
    }
    std::sort(out.starts.begin(), out.starts.end());
    return out;
}

} // namespace

Result<KernelCode> read_module_code(const KernelInfo& kernel, const PhysicalMemory& memory,
                                    const GuestModule& module, const ModuleSymbols& symbols,
                                    std::span<const CoveredBytes> covered) {
    std::string step = "module " + module.name;
    if (module.state != GuestModule::State::live && module.state != GuestModule::State::coming)
        return failf("{} cannot be hooked: it is {}", step, describe(module.state));
    if (module.text.size == 0)
        return failf("{} cannot be hooked: it has no code", step);
    if (auto status = check_reach(module.text); !status)
        return fail(status.error().in(step));
    VirtualMemory virt(kernel.image.tables(memory));
    std::vector<std::byte> text(module.text.size);
    if (auto status = virt.read(module.text.start, text); !status)
        return fail(status.error().in(step + ": read its code"));
    for (const CoveredBytes& one : covered)
        if (module.text.contains(one.at) && one.original.size() <= module.text.end() - one.at)
            std::copy(one.original.begin(), one.original.end(),
                      text.begin() + static_cast<std::ptrdiff_t>(one.at - module.text.start));
    auto tables = read_module_tables(kernel, memory, module);
    if (!tables)
        return fail(tables.error().in(step + ": read its tables"));
    settle_ftrace_places(tables->patched, module.text.start, text);

    Entries entries = find_entries(module, symbols, gaps(module, text, symbols));
    KernelCode code{CodeMap(module.text.start, std::move(text), entries.starts,
                            indirect_thunks(kernel.symbols)),
                    {},
                    std::move(tables->may_fault),
                    std::move(tables->patched),
                    {}};
    code.functions.resize(code.map.function_count(), Refusal::none);
    for (const auto& [at, why] : entries.limits) {
        Refusal& known = code.functions[*code.map.function_number(at)];
        if (known == Refusal::none)
            known = why;
    }
    for (Gva at : tables->continued_at)
        code.map.add_target(at);
    if (auto status = add_pointers(code.map, module, virt); !status)
        return fail(status.error().in(step + ": look for pointers to code"));
    std::sort(code.may_fault.begin(), code.may_fault.end());
    std::sort(code.patched.begin(), code.patched.end(),
              [](const auto& a, const auto& b) { return a.at < b.at; });
    return code;
}

} // namespace shadowmon
