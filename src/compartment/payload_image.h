// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace shadowmon {

/// One loadable part of the payload: an area of abi/layout.h.
struct PayloadSegment {
    Gva start;
    std::span<const std::byte> bytes; ///< of the file; zeroes follow up to size
    uint64_t size;
    bool writable;
    bool executable;
};

/// The payload as it was linked: an ELF file with the four segments and the symbols
/// that payload/symbols.h promises, all of it checked. Borrows the file's bytes.
class PayloadImage {
  public:
    static Result<PayloadImage> parse(std::span<const std::byte> file);

    const PayloadSegment& gate() const { return segments_[0]; }
    const PayloadSegment& text() const { return segments_[1]; }
    const PayloadSegment& rodata() const { return segments_[2]; }
    const PayloadSegment& data() const { return segments_[3]; }
    const std::vector<PayloadSegment>& segments() const { return segments_; }

    Result<Gva> symbol(const std::string& name) const;

  private:
    PayloadImage() = default;

    std::vector<PayloadSegment> segments_;
    std::map<std::string, Gva> symbols_;
};

/// The payload that this program was built with.
std::span<const std::byte> embedded_payload();

} // namespace shadowmon
