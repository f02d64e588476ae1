// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/possible_sources.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace shadowmon {

namespace {

constexpr uint32_t operand_size = 4;
constexpr unsigned block_shift = 6; // of targets: 64 bytes

/// What an instruction can have behind its displacement.
constexpr std::array<uint32_t, 4> immediate_sizes{0, 1, 2, 4};

/// What four bytes may be, by those around them.
enum Marks : uint8_t {
    branch = 1,       ///< distance of CALL, JMP, Jcc
    transaction = 2,  ///< of XBEGIN, of 32 or 16 bits
    displacement = 4, ///< from RIP, perhaps with an immediate behind it
    address = 8,      ///< of the code, or the lower half of one
};

/// A piece of the code, with as much of its surroundings as it takes to mark it.
class Piece {
  public:
    static constexpr uint32_t size = 4096;

    /// Beyond the code there are zeros.
    void load(std::span<const std::byte> code, uint32_t at) {
        const size_t before = std::min<size_t>(at, in_front);
        auto around =
            code.subspan(at - before, std::min<size_t>(code.size() - at, size + behind) + before);
        bytes_.fill(0);
        std::memcpy(bytes_.data() + (in_front - before), around.data(), around.size());
    }

    /// Marks each place, for code with addresses whose byte of the highest value is one of those.
    /// Without a branch, so that compilers make it one of sixteen places at a time.
    void mark(uint8_t lowest, uint8_t range) {
        constexpr uint8_t rip_mask = 0xc7, rip = 5; // of modrm
        for (uint32_t i = 0; i < size; i++) {
            const uint8_t two_before = bytes_[i], before = bytes_[i + 1], high = bytes_[i + 5];
            const uint8_t calls = (before & 0xfe) == 0xe8 ? branch : 0;
            const uint8_t jumps = (before & 0xf0) == 0x80 ? branch : 0;
            const uint8_t two_bytes = two_before == 0x0f ? branch : 0;
            const uint8_t begins = before == 0xf8 ? transaction : 0;
            const uint8_t group = two_before == 0xc7 ? transaction : 0;
            const uint8_t relative = (before & rip_mask) == rip ? displacement : 0;
            const uint8_t distance = high - lowest;
            const uint8_t names = distance <= range ? address : 0;
            marks_[i] = calls | (jumps & two_bytes) | (begins & group) | relative | names;
        }
    }

    /// `visit(place, marks)` for each that has any.
    template <typename Visit> void each_marked(Visit visit) const {
        for (uint32_t first = 0; first < size; first += sizeof(uint64_t)) {
            uint64_t some = 0;
            std::memcpy(&some, &marks_[first], sizeof(some));
            while (some != 0) {
                const auto place = static_cast<uint32_t>(std::countr_zero(some)) / 8;
                visit(first + place, marks_[first + place]);
                some &= ~(uint64_t{0xff} << (place * 8));
            }
        }
    }

    uint32_t value(uint32_t place) const {
        uint32_t value = 0;
        std::memcpy(&value, &bytes_[in_front + place], sizeof(value));
        return value;
    }

  private:
    static constexpr uint32_t in_front = 2, behind = operand_size - 1;
    std::array<uint8_t, in_front + size + behind> bytes_;
    std::array<uint8_t, size> marks_;
};

uint8_t highest_byte(uint32_t value) { return static_cast<uint8_t>(value >> 24); }

} // namespace

PossibleSources::PossibleSources(uint64_t start, std::span<const std::byte> code) {
    find(start, code);
    sort_into_blocks(code.size());
}

void PossibleSources::find(uint64_t start, std::span<const std::byte> code) {
    const auto low = static_cast<uint32_t>(start);
    const auto size = static_cast<uint32_t>(code.size());
    const uint8_t lowest = highest_byte(low);
    const auto range = static_cast<uint8_t>(highest_byte(low + size - 1) - lowest);
    auto add = [&](uint32_t target, uint32_t at) {
        if (target < size)
            sources_.push_back({target, at});
    };
    Piece piece;
    for (uint32_t begin = 0; begin < size; begin += Piece::size) {
        piece.load(code, begin);
        piece.mark(lowest, range);
        piece.each_marked([&](uint32_t place, uint8_t marks) {
            const uint32_t at = begin + place;
            if ((marks & transaction) && at + sizeof(uint16_t) <= size)
                narrow_.push_back(at);
            if (at + operand_size > size)
                return;
            const uint32_t value = piece.value(place);
            if (marks & address)
                add(value - low, at);
            const uint32_t target = at + operand_size + value;
            if (marks & (branch | transaction))
                add(target, at);
            if (marks & displacement)
                for (uint32_t immediate : immediate_sizes)
                    add(target + immediate, at);
        });
    }
}

void PossibleSources::sort_into_blocks(size_t code_size) {
    blocks_.resize((code_size >> block_shift) + 2);
    sorted_.resize(blocks_.size());
    for (const Source& source : sources_)
        blocks_[(source.target >> block_shift) + 1]++;
    for (size_t i = 1; i < blocks_.size(); i++)
        blocks_[i] += blocks_[i - 1];
    std::vector<Source> ordered(sources_.size());
    std::vector<uint32_t> next = blocks_;
    for (const Source& source : sources_)
        ordered[next[source.target >> block_shift]++] = source;
    sources_ = std::move(ordered);
}

std::span<const PossibleSources::Source> PossibleSources::of(uint32_t from, uint32_t to) {
    auto by_target = [](const Source& a, const Source& b) { return a.target < b.target; };
    const size_t first = from >> block_shift, end = ((to - 1) >> block_shift) + 1;
    for (size_t block = first; block < end; block++) {
        if (!sorted_[block])
            std::sort(sources_.begin() + blocks_[block], sources_.begin() + blocks_[block + 1],
                      by_target);
        sorted_[block] = true;
    }
    auto begin = std::lower_bound(sources_.begin() + blocks_[first],
                                  sources_.begin() + blocks_[end], Source{from, 0}, by_target);
    return {begin,
            std::lower_bound(begin, sources_.begin() + blocks_[end], Source{to, 0}, by_target)};
}

} // namespace shadowmon
