// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/kallsyms.h"

#include "src/guest/kallsyms_parser.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <memory>

namespace shadowmon {

namespace {

constexpr uint32_t none = UINT32_MAX;    ///< end of a chain
constexpr uint64_t max_part = 128 << 20; ///< stock kernels have below 16 MiB of read-only data

/// Read-only data first; before the kernel protects it, and with rodata=off, it is
/// writable.
std::vector<MappedRange> parts_to_search(const KernelImage& image) {
    std::vector<MappedRange> parts;
    for (const MappedRange& part : image.parts) {
        bool joins = !parts.empty() && parts.back().end() == part.start &&
                     parts.back().rights.executable == part.rights.executable &&
                     parts.back().rights.writable == part.rights.writable;
        if (joins)
            parts.back().size += part.size;
        else
            parts.push_back(part);
    }
    std::erase_if(parts, [](const MappedRange& part) { return part.size > max_part; });
    std::stable_sort(parts.begin(), parts.end(), [](const MappedRange& a, const MappedRange& b) {
        auto order = [](const MappedRange& part) {
            return part.rights.executable * 2 + part.rights.writable;
        };
        return order(a) < order(b);
    });
    return parts;
}

} // namespace

Result<Kallsyms> Kallsyms::find(const PhysicalMemory& memory, const KernelImage& image) {
    std::optional<Error> error;
    const std::vector<MappedRange> parts = parts_to_search(image);
    uint64_t largest = 0;
    for (const MappedRange& part : parts)
        largest = std::max(largest, part.size);
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(largest);
    for (const MappedRange& part : parts) {
        std::span data(buffer.get(), part.size);
        // Physically contiguous, as all of the image is.
        if (auto status = memory.read(part.gpa, data); !status)
            return fail(status.error().in("kallsyms: reading the kernel image"));
        auto symbols = parse(data, image.start);
        if (symbols)
            return symbols;
        // Of all reasons, the one that got furthest.
        if (!error || symbols.error().message() != "kallsyms: no token table")
            error = symbols.error();
    }
    if (!error)
        return failf("kallsyms: the kernel image has no part of a size to search");
    return fail(*error);
}

Result<Kallsyms> Kallsyms::parse(std::span<const std::byte> data, Gva text) {
    return KallsymsParser(data, text).run();
}

Kallsyms Kallsyms::of(std::vector<Symbol> symbols, std::string source) {
    std::stable_sort(symbols.begin(), symbols.end(),
                     [](const Symbol& a, const Symbol& b) { return a.value < b.value; });
    Kallsyms out;
    out.source_ = std::move(source);
    for (const Symbol& symbol : symbols) {
        out.values_.push_back(symbol.value);
        out.absolute_.push_back(symbol.absolute);
        out.names_.push_back(static_cast<uint32_t>(out.text_.size()));
        out.text_ += symbol.type;
        out.text_ += symbol.name;
    }
    out.names_.push_back(static_cast<uint32_t>(out.text_.size()));
    out.index();
    return out;
}

Symbol Kallsyms::operator[](size_t index) const {
    return {name(index), values_[index], text_[names_[index]], absolute_[index]};
}

size_t Kallsyms::bucket_of(std::string_view name) const {
    return std::hash<std::string_view>()(name) & (buckets_.size() - 1);
}

void Kallsyms::index() {
    buckets_.assign(std::bit_ceil(size()), none);
    next_.resize(size());
    for (size_t i = size(); i-- > 0;) {
        uint32_t& bucket = buckets_[bucket_of(name(i))];
        next_[i] = bucket;
        bucket = static_cast<uint32_t>(i);
    }
}

std::vector<Symbol> Kallsyms::find_all(std::string_view wanted) const {
    std::vector<Symbol> found;
    for (uint32_t i = buckets_[bucket_of(wanted)]; i != none; i = next_[i])
        if (name(i) == wanted)
            found.push_back((*this)[i]);
    return found;
}

std::optional<Symbol> Kallsyms::find(std::string_view wanted) const {
    auto found = find_all(wanted);
    if (found.empty())
        return std::nullopt;
    return found.front();
}

Result<Gva> Kallsyms::address(std::string_view wanted) const {
    auto found = find_all(wanted);
    if (found.empty())
        return failf("{}: this kernel has no symbol {}", source_, wanted);
    for (const Symbol& symbol : found)
        if (symbol.value != found.front().value)
            return failf("{}: {} symbols are called {}", source_, found.size(), wanted);
    if (found.front().absolute)
        return failf("{}: {} is not an address but an absolute value ({:#x})", source_, wanted,
                     found.front().value);
    return Gva(found.front().value);
}

Result<uint64_t> Kallsyms::percpu_offset(std::string_view wanted) const {
    auto found = find_all(wanted);
    if (found.size() != 1)
        return failf("{}: {} symbols are called {}, one per-CPU variable was expected", source_,
                     found.size(), wanted);
    if (!found.front().absolute)
        return failf("{}: {} is an address ({:#x}), not a per-CPU variable", source_, wanted,
                     found.front().value);
    return found.front().value;
}

std::optional<Symbol> Kallsyms::find_by_address(Gva gva) const {
    auto above = std::upper_bound(values_.begin(), values_.end(), gva.value);
    if (above == values_.begin() || absolute_[above - values_.begin() - 1])
        return std::nullopt;
    auto first = std::lower_bound(values_.begin(), above, *(above - 1));
    return (*this)[first - values_.begin()];
}

std::optional<Gva> Kallsyms::next_address(Gva gva) const {
    auto above = std::upper_bound(values_.begin(), values_.end(), gva.value);
    if (above == values_.end())
        return std::nullopt;
    return Gva(*above);
}

} // namespace shadowmon
