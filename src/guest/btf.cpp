// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/btf.h"

#include <bpf/btf.h>

#include <cstring>
#include <memory>
#include <span>

namespace shadowmon {

namespace {

constexpr unsigned max_depth = 16;        ///< anonymous structs within each other
constexpr unsigned max_visits = 1u << 16; ///< members looked at for one name
constexpr uint64_t max_blob = 64 << 20;

/// Looks for a named member, also inside anonymous ones, as C does.
class MemberSearch {
  public:
    MemberSearch(const ::btf* btf, std::string_view name) : btf_(btf), name_(name) {}

    /// 0 found, -ENOENT, or -E2BIG when the nesting exceeds all bounds.
    int in(uint32_t struct_id, uint64_t base_bits, unsigned depth = 0) {
        if (depth > max_depth)
            return -E2BIG;
        const btf_type* type = btf__type_by_id(btf_, struct_id);
        if (!type || !btf_is_composite(type))
            return -ENOENT;
        const btf_member* members = ::btf_members(type);
        for (uint32_t i = 0; i < btf_vlen(type); ++i) {
            if (++visits_ > max_visits)
                return -E2BIG;
            const char* member_name = btf__name_by_offset(btf_, members[i].name_off);
            uint64_t bits = base_bits + btf_member_bit_offset(type, i);
            if (member_name && name_ == member_name) {
                bit_offset = bits;
                bitfield = btf_member_bitfield_size(type, i) != 0;
                type_id = members[i].type;
                return 0;
            }
            if (member_name && *member_name)
                continue;
            int inner = in(strip(btf_, members[i].type), bits, depth + 1);
            if (inner != -ENOENT)
                return inner;
        }
        return -ENOENT;
    }

    /// The type behind const, volatile, typedef and tags; they cannot go in circles,
    /// that was checked.
    static uint32_t strip(const ::btf* btf, uint32_t id) {
        for (;;) {
            const btf_type* type = btf__type_by_id(btf, id);
            if (!type || !(btf_is_mod(type) || btf_is_typedef(type)))
                return id;
            id = type->type;
        }
    }

    uint64_t bit_offset = 0;
    bool bitfield = false;
    uint32_t type_id = 0;

  private:
    const ::btf* btf_;
    std::string_view name_;
    unsigned visits_ = 0;
};

} // namespace

void Btf::Free::operator()(::btf* btf) const { btf__free(btf); }

Result<Btf> Btf::parse(std::span<const std::byte> blob) {
    SM_TRY(validate_btf(blob));
    ::btf* btf = btf__new(blob.data(), static_cast<uint32_t>(blob.size()));
    if (!btf)
        return fail(Error::from_errno("BTF: libbpf refused it"));
    return Btf(btf);
}

Result<Btf> Btf::find(const PhysicalMemory& memory, const KernelImage& image,
                      const Kallsyms& symbols) {
    auto start = symbols.address("__start_BTF");
    auto stop = symbols.address("__stop_BTF");
    if (!start || !stop)
        return failf("BTF: this kernel carries none (no __start_BTF and __stop_BTF; it needs "
                     "CONFIG_DEBUG_INFO_BTF)");
    if (!image.contains(*start) || *stop <= *start || *stop > image.end() ||
        *stop - *start > max_blob)
        return failf("BTF: {:#x}..{:#x} is no part of the kernel image {:#x}..{:#x}", start->value,
                     stop->value, image.start.value, image.end().value);
    const uint64_t size = *stop - *start;
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(size);
    std::span blob(buffer.get(), size);
    VirtualMemory kernel(image.tables(memory));
    if (auto status = kernel.read(*start, blob); !status)
        return fail(status.error().in("BTF: reading it"));
    return parse(blob);
}

Result<int32_t> Btf::find_struct(std::string_view name) const {
    std::string text(name);
    int32_t id = btf__find_by_name_kind(btf_.get(), text.c_str(), BTF_KIND_STRUCT);
    if (id < 0)
        id = btf__find_by_name_kind(btf_.get(), text.c_str(), BTF_KIND_UNION);
    if (id < 0)
        return failf("BTF: no struct {}", name);
    return id;
}

Result<BtfMember> Btf::member(std::string_view struct_name, std::string_view path) const {
    auto id = find_struct(struct_name);
    if (!id)
        return fail(id.error());
    auto type_id = static_cast<uint32_t>(*id);
    uint64_t bits = 0;
    bool bitfield = false;
    for (std::string_view rest = path;;) {
        std::string_view name = rest.substr(0, rest.find('.'));
        if (name.empty())
            return failf("BTF: \"{}\" is no path of members", path);
        MemberSearch search(btf_.get(), name);
        int error = search.in(MemberSearch::strip(btf_.get(), type_id), bits);
        if (error == -E2BIG)
            return failf("BTF: struct {} is nested beyond all bounds", struct_name);
        if (error)
            return failf("BTF: struct {} has no member {}", struct_name, path);
        bits = search.bit_offset;
        bitfield = search.bitfield;
        type_id = search.type_id;
        if (name.size() == rest.size())
            break;
        rest.remove_prefix(name.size() + 1);
    }
    if (bitfield || bits % 8)
        return failf("BTF: member {} of struct {} is a bit field", path, struct_name);
    int64_t size = btf__resolve_size(btf_.get(), type_id);
    auto whole = this->size(struct_name);
    if (!whole)
        return fail(whole.error());
    if (size < 0 || bits / 8 + static_cast<uint64_t>(size) > *whole)
        return failf("BTF: member {} of struct {} at {} with {} bytes is not within its {} bytes",
                     path, struct_name, bits / 8, size, *whole);
    return BtfMember{static_cast<uint32_t>(bits / 8), static_cast<uint32_t>(size), type_id};
}

Result<uint32_t> Btf::offset(std::string_view struct_name, std::string_view path) const {
    auto found = member(struct_name, path);
    if (!found)
        return fail(found.error());
    return found->offset;
}

Result<uint32_t> Btf::size(std::string_view struct_name) const {
    auto id = find_struct(struct_name);
    if (!id)
        return fail(id.error());
    return btf__type_by_id(btf_.get(), static_cast<uint32_t>(*id))->size;
}

bool Btf::has_struct(std::string_view struct_name) const {
    return find_struct(struct_name).has_value();
}

} // namespace shadowmon
