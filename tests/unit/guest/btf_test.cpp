// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/btf.h"

#include "tests/unit/guest/synthetic.h"

#include <gtest/gtest.h>
#include <linux/btf.h>

#include <cstring>
#include <random>

namespace shadowmon::test {
namespace {

/// Builds raw blobs that libbpf would not.
class RawBtf {
  public:
    uint32_t add(uint32_t name, unsigned kind, unsigned vlen, uint32_t size_or_type,
                 std::vector<uint32_t> rest = {}) {
        types_.insert(types_.end(), {name, kind << 24 | vlen, size_or_type});
        types_.insert(types_.end(), rest.begin(), rest.end());
        return ++count_;
    }

    std::vector<std::byte> blob(const std::string& strings = std::string("\0a\0b\0", 5)) const {
        btf_header header{};
        header.magic = BTF_MAGIC;
        header.version = BTF_VERSION;
        header.hdr_len = sizeof(header);
        header.type_len = static_cast<uint32_t>(4 * types_.size());
        header.str_off = header.type_len;
        header.str_len = static_cast<uint32_t>(strings.size());
        std::vector<std::byte> out(sizeof(header) + header.type_len + strings.size());
        std::memcpy(out.data(), &header, sizeof(header));
        if (!types_.empty())
            std::memcpy(out.data() + sizeof(header), types_.data(), header.type_len);
        std::memcpy(out.data() + sizeof(header) + header.type_len, strings.data(), strings.size());
        return out;
    }

  private:
    std::vector<uint32_t> types_;
    uint32_t count_ = 0;
};

void expect_refused(const std::vector<std::byte>& blob, const std::string& because) {
    auto btf = Btf::parse(blob);
    ASSERT_FALSE(btf) << because;
    EXPECT_NE(btf.error().message().find(because), std::string::npos) << btf.error().message();
}

TEST(Btf, FindsMembers) {
    auto btf = Btf::parse(make_btf());
    ASSERT_TRUE(btf) << btf.error().message();
    EXPECT_EQ(*btf->offset("task_struct", "pid"), 32u);
    EXPECT_EQ(*btf->offset("task_struct", "in_struct"), 12u);
    EXPECT_EQ(*btf->offset("task_struct", "in_union_a"), 16u);
    EXPECT_EQ(*btf->offset("task_struct", "in_union_b"), 16u);
    EXPECT_EQ(btf->member("task_struct", "in_union_b")->size, 8u);
    EXPECT_EQ(btf->member("task_struct", "comm")->size, 16u);
    EXPECT_EQ(*btf->size("task_struct"), 128u);
    EXPECT_TRUE(btf->has_struct("list_head"));
    EXPECT_FALSE(btf->has_struct("task_t"));
    EXPECT_NE(btf->raw(), nullptr);
}

TEST(Btf, SaysWhatIsMissing) {
    auto btf = Btf::parse(make_btf());
    ASSERT_TRUE(btf) << btf.error().message();
    EXPECT_EQ(btf->offset("nothing", "pid").error().message(), "BTF: no struct nothing");
    EXPECT_EQ(btf->offset("task_struct", "uid").error().message(),
              "BTF: struct task_struct has no member uid");
    EXPECT_FALSE(btf->offset("task_struct", "next")); // of a named member
    EXPECT_FALSE(btf->offset("task_struct", "pid.x"));
    EXPECT_FALSE(btf->offset("task_struct", ""));
    EXPECT_FALSE(btf->offset("task_struct", "list."));
    EXPECT_FALSE(btf->size("nothing"));
    EXPECT_NE(btf->offset("task_struct", "flag").error().message().find("bit field"),
              std::string::npos);
}

TEST(Btf, RefusesBadHeaders) {
    auto good = make_btf();
    ASSERT_TRUE(validate_btf(good));
    expect_refused({}, "less than a header");
    expect_refused({good.begin(), good.begin() + 20}, "less than a header");
    auto change = [&](size_t offset, uint32_t value) {
        auto bad = good;
        std::memcpy(bad.data() + offset, &value, 4);
        return bad;
    };
    expect_refused(change(0, 0x12345678), "magic");
    expect_refused(change(4, 0xfffffff0), "length");
    expect_refused(change(4, 8), "length");
    expect_refused(change(8, 0xfffffffc), "do not fit");
    expect_refused(change(12, 0xfffffffc), "do not fit");
    expect_refused(change(16, 0xfffffff0), "do not fit");
    expect_refused(change(20, 0xffffffff), "do not fit");
    expect_refused(change(20, 0), "strings");
    auto no_end = good;
    no_end.back() = std::byte{'x'};
    expect_refused(no_end, "strings");
}

TEST(Btf, RefusesBadRecords) {
    RawBtf unknown;
    unknown.add(1, 31, 0, 4);
    expect_refused(unknown.blob(), "unknown kind");
    RawBtf cut;
    cut.add(1, BTF_KIND_STRUCT, 1000, 4);
    expect_refused(cut.blob(), "cut off");
    RawBtf reference;
    reference.add(1, BTF_KIND_TYPEDEF, 0, 77);
    expect_refused(reference.blob(), "refers to type 77");
    RawBtf name;
    name.add(5, BTF_KIND_INT, 0, 4, {32});
    expect_refused(name.blob(), "a name at 5");
    RawBtf member_name;
    member_name.add(1, BTF_KIND_STRUCT, 1, 4, {0xffffffff, 0, 0});
    expect_refused(member_name.blob(), "a name at");
}

TEST(Btf, RefusesTypesThatContainThemselves) {
    RawBtf typedefs;
    typedefs.add(1, BTF_KIND_TYPEDEF, 0, 2);
    typedefs.add(3, BTF_KIND_CONST, 0, 1);
    expect_refused(typedefs.blob(), "contains itself");
    RawBtf structs;
    structs.add(1, BTF_KIND_STRUCT, 1, 4, {0, 2, 0});
    structs.add(0, BTF_KIND_ARRAY, 0, 0, {1, 1, 1});
    expect_refused(structs.blob(), "contains itself");
    RawBtf pointer; // that is what lists are
    pointer.add(1, BTF_KIND_STRUCT, 1, 8, {3, 2, 0});
    pointer.add(0, BTF_KIND_PTR, 0, 1);
    EXPECT_TRUE(Btf::parse(pointer.blob()));
}

/// Deep chains, and nesting whose number of paths is exponential.
TEST(Btf, BoundsNesting) {
    RawBtf chain;
    for (uint32_t id = 1; id < 200'000; ++id)
        chain.add(id == 1 ? 1 : 0, BTF_KIND_STRUCT, 1, 4, {0, id + 1, 0});
    chain.add(0, BTF_KIND_STRUCT, 0, 4);
    auto deep = Btf::parse(chain.blob());
    ASSERT_TRUE(deep) << deep.error().message();
    EXPECT_NE(deep->offset("a", "b").error().message().find("beyond all bounds"),
              std::string::npos);

    RawBtf fork;
    for (uint32_t id = 1; id < 15; ++id)
        fork.add(id == 1 ? 1 : 0, BTF_KIND_STRUCT, 4, 4,
                 {0, id + 1, 0, 0, id + 1, 0, 0, id + 1, 0, 0, id + 1, 0});
    fork.add(0, BTF_KIND_STRUCT, 0, 4);
    auto wide = Btf::parse(fork.blob());
    ASSERT_TRUE(wide) << wide.error().message();
    EXPECT_NE(wide->offset("a", "b").error().message().find("beyond all bounds"),
              std::string::npos);
}

TEST(Btf, RefusesMembersOutsideTheirStruct) {
    RawBtf raw;
    raw.add(1, BTF_KIND_STRUCT, 1, 4, {3, 2, 0xfffffff8});
    raw.add(0, BTF_KIND_INT, 0, 4, {32});
    auto btf = Btf::parse(raw.blob());
    ASSERT_TRUE(btf) << btf.error().message();
    EXPECT_NE(btf->offset("a", "b").error().message().find("not within"), std::string::npos);
}

TEST(Btf, SurvivesCorruption) {
    auto good = make_btf();
    unsigned refused = 0;
    for (uint32_t seed = 0; seed < 5000; ++seed) {
        std::mt19937 random(seed);
        auto bad = good;
        for (unsigned n = 1 + random() % 6; n; --n)
            bad[random() % bad.size()] = static_cast<std::byte>(random());
        if (random() % 4 == 0)
            bad.resize(random() % bad.size());
        auto btf = Btf::parse(bad);
        if (!btf) {
            ++refused;
            EXPECT_EQ(btf.error().message().find("BTF"), 0u) << btf.error().message();
            continue;
        }
        (void)btf->member("task_struct", "comm");
        (void)btf->member("task_struct", "in_union_b");
        (void)btf->member("task_struct", "nothing");
    }
    EXPECT_GT(refused, 1000u);
}

} // namespace
} // namespace shadowmon::test
