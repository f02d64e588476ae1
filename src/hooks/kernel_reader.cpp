// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/kernel_reader.h"

#include "src/hooks/kernel_tables.h"

#include <algorithm>
#include <cstring>

namespace shadowmon {

namespace {

constexpr uint64_t chunk_size = 1 << 20;
/// Many times what any kernel has; a guest that claims more only wants to keep us busy.
constexpr uint64_t max_text = 256 << 20;

Result<std::vector<std::byte>> read_text(const KernelInfo& kernel, const PhysicalMemory& memory,
                                         Gva start, Gva end) {
    if (end <= start || !kernel.image.contains(start) || end > kernel.image.end())
        return failf("kernel text {:#x}..{:#x} is outside the kernel image", start.value,
                     end.value);
    if (end - start > max_text)
        return failf("{:#x} bytes of kernel text", end - start);
    auto gpa = kernel.to_gpa(start);
    if (!gpa)
        return fail(gpa.error());
    std::vector<std::byte> bytes(end - start);
    SM_TRY(memory.read(*gpa, bytes));
    return bytes;
}

/// Pointers into the text, wherever in the image they are: tables of jumps written in assembly.
Status add_pointers(CodeMap& map, const KernelInfo& kernel, const PhysicalMemory& memory) {
    std::vector<std::byte> chunk;
    for (const MappedRange& part : kernel.image.parts) {
        for (uint64_t done = 0; done < part.size; done += chunk.size()) {
            chunk.resize(std::min(chunk_size, part.size - done));
            Gva at = part.start + done;
            if (map.contains(at) && map.contains(at + (chunk.size() - 1)))
                continue;
            SM_TRY(memory.read(part.gpa + done, chunk));
            for (size_t i = 0; i + sizeof(uint64_t) <= chunk.size(); i += sizeof(uint64_t)) {
                uint64_t word = 0;
                std::memcpy(&word, chunk.data() + i, sizeof(word));
                map.add_target(Gva(word));
            }
        }
    }
    return {};
}

} // namespace

Result<KernelCode> read_kernel_code(const KernelInfo& kernel, const PhysicalMemory& memory,
                                    std::span<const CoveredBytes> covered,
                                    std::optional<TextRange> only) {
    auto start = kernel.symbols.address("_stext");
    auto end = kernel.symbols.address("_etext");
    if (!start || !end)
        return fail((start ? end : start).error().in("find the kernel's text"));
    if (only) {
        if (only->start < *start || only->end > *end)
            return failf("{:#x}..{:#x} is outside the kernel's text {:#x}..{:#x}",
                         only->start.value, only->end.value, start->value, end->value);
        *start = only->start;
        *end = only->end;
    }
    auto limits = OffLimits::find(kernel.symbols);
    if (!limits)
        return fail(limits.error());
    auto text = read_text(kernel, memory, *start, *end);
    if (!text)
        return fail(text.error().in("read the kernel's text"));
    for (const CoveredBytes& one : covered)
        if (one.at >= *start && one.at < *end && one.original.size() <= *end - one.at)
            std::copy(one.original.begin(), one.original.end(),
                      text->begin() + static_cast<std::ptrdiff_t>(one.at - *start));
    auto tables = read_kernel_tables(kernel, memory);
    if (!tables)
        return fail(tables.error().in("read the kernel's tables"));
    settle_ftrace_places(tables->patched, *start, *text);

    std::vector<Gva> entries;
    std::vector<Gva> thunks;
    for (size_t i = 0; i < kernel.symbols.size(); i++) {
        Symbol symbol = kernel.symbols[i];
        Gva at(symbol.value);
        if (symbol.absolute || at < *start || at >= *end)
            continue;
        entries.push_back(at);
        if (is_indirect_thunk(symbol.name))
            thunks.push_back(at);
    }

    KernelCode code{
        CodeMap(*start, std::move(*text), entries, std::move(thunks)), {}, {}, {}, *limits};
    for (size_t n = 0; n < code.map.function_count(); n++)
        code.functions.push_back(limits->at(code.map.function_start(n)));
    for (size_t i = 0; i < kernel.symbols.size(); i++) {
        Symbol symbol = kernel.symbols[i];
        Refusal refusal = symbol.absolute ? Refusal::none : OffLimits::named(symbol.name);
        if (refusal == Refusal::none || !code.map.contains(Gva(symbol.value)))
            continue;
        Refusal& known = code.functions[*code.map.function_number(Gva(symbol.value))];
        if (known == Refusal::none)
            known = refusal;
    }
    for (Gva at : tables->continued_at)
        code.map.add_target(at);
    if (auto status = add_pointers(code.map, kernel, memory); !status)
        return fail(status.error().in("look for pointers to code"));
    code.may_fault = std::move(tables->may_fault);
    std::sort(code.may_fault.begin(), code.may_fault.end());
    code.patched = std::move(tables->patched);
    std::sort(code.patched.begin(), code.patched.end(),
              [](const auto& a, const auto& b) { return a.at < b.at; });
    return code;
}

} // namespace shadowmon
