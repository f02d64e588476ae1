// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/kallsyms.h"
#include "src/guest/kernel_image.h"
#include "src/guest/memory.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

struct btf;

namespace shadowmon {

/// Checks that bytes are well-formed BTF, so that no reader of them can be led
/// outside: header, sections, every type record, every name and type id, arrays
/// and modifiers without cycles.
Status validate_btf(std::span<const std::byte> blob);

/// A member of a struct or union, looked up through anonymous members.
struct BtfMember {
    uint32_t offset;  ///< bytes from the start of the outermost struct
    uint32_t size;    ///< bytes of the member's type
    uint32_t type_id; ///< of the member, as declared
};

/// The guest kernel's type information. Owns its copy of the bytes; they are
/// checked before libbpf sees them.
class Btf {
  public:
    Btf() = default; ///< without any type

    static Result<Btf> parse(std::span<const std::byte> blob);

    /// The kernel's own BTF between `__start_BTF` and `__stop_BTF`.
    static Result<Btf> find(const PhysicalMemory& memory, const KernelImage& image,
                            const Kallsyms& symbols);

    /// `member` may be a path through named members: "thread.sp".
    Result<BtfMember> member(std::string_view struct_name, std::string_view member) const;
    Result<uint32_t> offset(std::string_view struct_name, std::string_view member) const;
    Result<uint32_t> size(std::string_view struct_name) const;
    bool has_struct(std::string_view struct_name) const;

    /// For decoding typed values; valid as long as this object.
    const ::btf* raw() const { return btf_.get(); }

  private:
    struct Free {
        void operator()(::btf* btf) const;
    };
    explicit Btf(::btf* btf) : btf_(btf) {}

    Result<int32_t> find_struct(std::string_view name) const;

    std::unique_ptr<::btf, Free> btf_;
};

} // namespace shadowmon
