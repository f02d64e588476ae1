// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace shadowmon {

/// The hidden region's pages in this process's address space. Owns the mapping.
/// The pages live as long as it does, also after the views are disabled, so that
/// the rings can be read to their end.
class RegionMapping {
  public:
    [[nodiscard]] static Result<RegionMapping> map(int views_fd, uint32_t pages);

    RegionMapping(RegionMapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    RegionMapping& operator=(RegionMapping&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~RegionMapping();

    std::span<std::byte> bytes() const { return bytes_; }

  private:
    explicit RegionMapping(std::span<std::byte> bytes) : bytes_(bytes) {}

    std::span<std::byte> bytes_;
};

} // namespace shadowmon
