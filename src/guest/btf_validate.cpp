// SPDX-License-Identifier: GPL-2.0-or-later
// Format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h.
#include "src/guest/btf.h"

#include <cstring>
#include <linux/btf.h>
#include <optional>

namespace shadowmon {

namespace {

constexpr size_t max_blob = 64 << 20; ///< stock kernels have below 8 MiB

/// All record kinds up to ENUM64 (6.0): what follows btf_type.
struct Kind {
    size_t fixed;   ///< bytes once
    size_t element; ///< bytes for each of vlen
};

std::optional<Kind> layout_of(unsigned kind) {
    switch (kind) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
        return Kind{4, 0};
    case BTF_KIND_ARRAY:
        return Kind{sizeof(btf_array), 0};
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
        return Kind{0, sizeof(btf_member)};
    case BTF_KIND_ENUM:
        return Kind{0, sizeof(btf_enum)};
    case BTF_KIND_ENUM64:
        return Kind{0, 12};
    case BTF_KIND_FUNC_PROTO:
        return Kind{0, sizeof(btf_param)};
    case BTF_KIND_DATASEC:
        return Kind{0, sizeof(btf_var_secinfo)};
    case BTF_KIND_PTR:
    case BTF_KIND_FWD:
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_FUNC:
    case BTF_KIND_FLOAT:
    case BTF_KIND_TYPE_TAG:
        return Kind{0, 0};
    default:
        return std::nullopt;
    }
}

class Validator {
  public:
    explicit Validator(std::span<const std::byte> blob) : blob_(blob) {}

    Status run() {
        SM_TRY(header());
        SM_TRY(records());
        for (uint32_t id = 1; id < offsets_.size(); ++id)
            SM_TRY(references(id));
        return no_cycles();
    }

  private:
    template <typename T> T at(size_t offset) const {
        T value;
        std::memcpy(&value, blob_.data() + offset, sizeof(value));
        return value;
    }

    Status header() {
        if (blob_.size() > max_blob)
            return failf("BTF: {} bytes are more than {} MiB", blob_.size(), max_blob >> 20);
        if (blob_.size() < sizeof(btf_header))
            return failf("BTF: {} bytes are less than a header", blob_.size());
        auto header = at<btf_header>(0);
        if (header.magic != BTF_MAGIC || header.version != BTF_VERSION)
            return failf("BTF header: magic {:#x} version {}, expected {:#x} version {}",
                         uint16_t{header.magic}, header.version, BTF_MAGIC, BTF_VERSION);
        uint64_t body = header.hdr_len;
        if (body < sizeof(btf_header) || body > blob_.size() || body % 4)
            return failf("BTF header: its length {} does not fit {} bytes", body, blob_.size());
        uint64_t left = blob_.size() - body;
        auto fits = [&](uint64_t offset, uint64_t size) {
            return offset <= left && size <= left - offset;
        };
        if (header.type_off % 4 || !fits(header.type_off, header.type_len) ||
            !fits(header.str_off, header.str_len) ||
            uint64_t{header.type_off} + header.type_len > header.str_off)
            return failf("BTF header: types at {}+{} and strings at {}+{} do not fit {} bytes",
                         header.type_off, header.type_len, header.str_off, header.str_len, left);
        types_ = body + header.type_off;
        types_end_ = types_ + header.type_len;
        strings_ = body + header.str_off;
        strings_size_ = header.str_len;
        if (strings_size_ == 0 || at<char>(strings_) != 0 ||
            at<char>(strings_ + strings_size_ - 1) != 0)
            return failf("BTF strings: {} bytes that do not begin and end with a zero",
                         strings_size_);
        return {};
    }

    Status records() {
        offsets_.push_back(0); // void
        size_t offset = types_;
        while (offset < types_end_) {
            auto bad = [&](const char* why) {
                return failf("BTF type {} at offset {}: {}", offsets_.size(), offset, why);
            };
            size_t left = types_end_ - offset;
            if (left < sizeof(btf_type))
                return bad("cut off");
            auto type = at<btf_type>(offset);
            auto layout = layout_of(BTF_INFO_KIND(type.info));
            if (!layout)
                return bad("unknown kind");
            size_t size =
                sizeof(btf_type) + layout->fixed + layout->element * BTF_INFO_VLEN(type.info);
            if (size > left)
                return bad("cut off");
            offsets_.push_back(offset);
            offset += size;
        }
        return {};
    }

    /// Calls f(id, by_value) for every type that a record refers to; `by_value`: it is part
    /// of the type, not only pointed at.
    template <typename F> void for_each_reference(uint32_t id, F f) const {
        auto type = at<btf_type>(offsets_[id]);
        size_t body = offsets_[id] + sizeof(btf_type);
        unsigned vlen = BTF_INFO_VLEN(type.info);
        switch (BTF_INFO_KIND(type.info)) {
        case BTF_KIND_TYPEDEF:
        case BTF_KIND_VOLATILE:
        case BTF_KIND_CONST:
        case BTF_KIND_RESTRICT:
        case BTF_KIND_TYPE_TAG:
        case BTF_KIND_VAR:
            f(type.type, true);
            break;
        case BTF_KIND_PTR:
        case BTF_KIND_FUNC:
        case BTF_KIND_DECL_TAG:
            f(type.type, false);
            break;
        case BTF_KIND_ARRAY: {
            auto array = at<btf_array>(body);
            f(array.type, true);
            f(array.index_type, true);
            break;
        }
        case BTF_KIND_STRUCT:
        case BTF_KIND_UNION:
            for (unsigned i = 0; i < vlen; ++i)
                f(at<btf_member>(body + i * sizeof(btf_member)).type, true);
            break;
        case BTF_KIND_FUNC_PROTO:
            f(type.type, false);
            for (unsigned i = 0; i < vlen; ++i)
                f(at<btf_param>(body + i * sizeof(btf_param)).type, false);
            break;
        case BTF_KIND_DATASEC:
            for (unsigned i = 0; i < vlen; ++i)
                f(at<btf_var_secinfo>(body + i * sizeof(btf_var_secinfo)).type, true);
            break;
        }
    }

    template <typename F> void for_each_name(uint32_t id, F f) const {
        auto type = at<btf_type>(offsets_[id]);
        f(type.name_off);
        unsigned kind = BTF_INFO_KIND(type.info);
        bool named = kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION || kind == BTF_KIND_ENUM ||
                     kind == BTF_KIND_ENUM64 || kind == BTF_KIND_FUNC_PROTO;
        size_t element = layout_of(kind)->element; // begins with the name in all of these
        for (unsigned i = 0; named && i < BTF_INFO_VLEN(type.info); ++i)
            f(at<uint32_t>(offsets_[id] + sizeof(btf_type) + i * element));
    }

    Status references(uint32_t id) const {
        std::optional<uint32_t> bad_type;
        std::optional<uint32_t> bad_name;
        for_each_reference(id, [&](uint32_t to, bool) {
            if (to >= offsets_.size())
                bad_type = to;
        });
        for_each_name(id, [&](uint32_t name) {
            if (name >= strings_size_)
                bad_name = name;
        });
        if (bad_type)
            return failf("BTF type {}: refers to type {} of {}", id, *bad_type,
                         offsets_.size() - 1);
        if (bad_name)
            return failf("BTF type {}: a name at {} of {} bytes of strings", id, *bad_name,
                         strings_size_);
        return {};
    }

    /// No type may contain itself: depth first over by-value references, without recursion.
    Status no_cycles() const {
        enum : uint8_t { Unseen, Open, Done };
        std::vector<uint8_t> state(offsets_.size(), Unseen);
        std::vector<uint32_t> stack;
        state[0] = Done;
        for (uint32_t root = 1; root < offsets_.size(); ++root) {
            if (state[root] == Unseen)
                stack.push_back(root);
            while (!stack.empty()) {
                uint32_t id = stack.back();
                if (state[id] != Unseen) { // all below it is done
                    state[id] = Done;
                    stack.pop_back();
                    continue;
                }
                state[id] = Open;
                bool cycle = false;
                for_each_reference(id, [&](uint32_t to, bool by_value) {
                    if (!by_value)
                        return;
                    cycle |= state[to] == Open;
                    if (state[to] == Unseen)
                        stack.push_back(to);
                });
                if (cycle)
                    return failf("BTF type {}: contains itself", id);
            }
        }
        return {};
    }

    std::span<const std::byte> blob_;
    size_t types_ = 0;
    size_t types_end_ = 0;
    size_t strings_ = 0;
    size_t strings_size_ = 0;
    std::vector<size_t> offsets_; ///< of the record of each type id
};

} // namespace

Status validate_btf(std::span<const std::byte> blob) { return Validator(blob).run(); }

} // namespace shadowmon
