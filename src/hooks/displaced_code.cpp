// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/displaced_code.h"

#include "abi/layout.h"

#include <algorithm>
#include <cassert>

namespace shadowmon {

namespace {

constexpr std::byte int3{0xcc};
constexpr size_t alignment = 16;

static_assert(2 * max_piece_size <= SM_DISPLACED_PER_HOOK);
static_assert(max_piece_size % alignment == 0);

size_t rounded(size_t size) { return (size + alignment - 1) / alignment * alignment; }

} // namespace

DisplacedCode::DisplacedCode(Gva base, size_t max_size)
    : base_(base), own_(max_size, int3), area_(own_) {
    // Code that got lost to the start of a page meets an INT3, not a displaced instruction.
    if (max_size > alignment)
        free_.emplace(alignment, max_size - alignment);
}

void DisplacedCode::publish_to(std::span<std::byte> area) {
    assert(area.size() == area_.size());
    std::copy(area_.begin(), area_.end(), area.begin());
    area_ = area;
    own_ = {};
}

std::span<const std::byte> DisplacedCode::bytes() const {
    if (!free_.empty()) {
        auto [offset, size] = *free_.rbegin();
        if (offset + size == area_.size())
            return area_.first(offset);
    }
    return area_;
}

Result<DisplacedCode::Range> DisplacedCode::take(size_t offset, std::span<const std::byte> piece) {
    auto range = free_.find(offset);
    Range taken{offset, rounded(piece.size())};
    size_t left = range->second - taken.size;
    free_.erase(range);
    if (left != 0)
        free_.emplace(offset + taken.size, left);
    std::copy(piece.begin(), piece.end(), area_.begin() + static_cast<std::ptrdiff_t>(offset));
    taken_ += taken.size;
    return taken;
}

/// In the smallest gap that it fits, of the first such ones. How long a piece is may depend on
/// where it is, so it is made for the place before the place is taken.
Result<DisplacedCode::Range> DisplacedCode::emit(const Displaced& displaced, bool interrupts_on) {
    std::vector<Range> gaps;
    for (auto [offset, size] : free_)
        gaps.push_back({offset, size});
    std::stable_sort(gaps.begin(), gaps.end(),
                     [](const Range& a, const Range& b) { return a.size < b.size; });
    size_t expected = 0;
    for (const Range& gap : gaps) {
        if (gap.size < expected)
            continue;
        auto piece = displace(displaced, base_ + gap.offset, interrupts_on);
        if (!piece)
            return fail(piece.error());
        expected = rounded(piece->size());
        if (expected <= gap.size)
            return take(gap.offset, *piece);
    }
    return failf("no room for more displaced instructions: {} of {} bytes are taken", taken_,
                 area_.size());
}

void DisplacedCode::give_back(Range range) {
    std::fill_n(area_.begin() + static_cast<std::ptrdiff_t>(range.offset), range.size, int3);
    taken_ -= range.size;
    auto behind = free_.lower_bound(range.offset);
    if (behind != free_.end() && behind->first == range.offset + range.size) {
        range.size += behind->second;
        behind = free_.erase(behind);
    }
    if (behind != free_.begin()) {
        auto before = std::prev(behind);
        if (before->first + before->second == range.offset) {
            before->second += range.size;
            return;
        }
    }
    free_.emplace(range.offset, range.size);
}

Result<Resume> DisplacedCode::add(const Displaced& displaced) {
    auto if1 = emit(displaced, true);
    if (!if1)
        return fail(if1.error());
    auto if0 = emit(displaced, false);
    if (!if0) {
        give_back(*if1);
        return fail(if0.error());
    }
    pairs_.emplace(if1->offset, Pair{*if1, *if0});
    return Resume{base_ + if1->offset, base_ + if0->offset};
}

Result<Resume> DisplacedCode::add(const Instruction& instruction,
                                  std::span<const std::byte> bytes) {
    bytes = bytes.first(instruction.length());
    return add(Displaced{{instruction}, {bytes.begin(), bytes.end()}});
}

bool DisplacedCode::free(const Resume& resume) {
    auto pair = pairs_.find(resume.if1 - base_);
    if (pair == pairs_.end() || base_ + pair->second.if0.offset != resume.if0)
        return false;
    give_back(pair->second.if1);
    give_back(pair->second.if0);
    pairs_.erase(pair);
    return true;
}

} // namespace shadowmon
