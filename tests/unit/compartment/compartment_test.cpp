// SPDX-License-Identifier: GPL-2.0-or-later
// The compartment as the guest's CPU and the two views will see it: every area is
// found through the page tables at the address and with the rights of abi/layout.h,
// and nothing else is mapped.
#include "src/compartment/compartment.h"

#include "src/compartment/page_tables.h"
#include "src/compartment/placement.h"
#include "src/guest/page_walk.h"
#include "tests/unit/compartment/fake_payload.h"

#include <gtest/gtest.h>

#include <map>

namespace shadowmon {
namespace {

constexpr Gpa region_gpa(0x12'3456'7000);
constexpr Gpa tables_gpa(0x10000); // the guest's own top-level and level-3 table

/// The region, and below it a guest whose kernel table has our entry.
class GuestWithRegion final : public PhysicalMemory {
  public:
    GuestWithRegion(std::span<std::byte> region, unsigned levels) : region_(region) {
        ram_ = {{tables_gpa, 0x3000}, {region_gpa, region.size()}};
        uint64_t next = tables_gpa.value;
        for (unsigned level = levels; level > 3; level--) {
            entries_[next + 511 * 8] = (next + 0x1000) | 3;
            next += 0x1000;
        }
        entries_[next + pud_index * 8] = pud_entry(region_gpa);
    }
    Status read(Gpa gpa, std::span<std::byte> out) const override {
        if (gpa >= region_gpa && gpa - region_gpa + out.size() <= region_.size()) {
            std::memcpy(out.data(), region_.data() + (gpa - region_gpa), out.size());
            return {};
        }
        if (gpa >= tables_gpa && gpa - tables_gpa + out.size() <= 0x3000) {
            std::memset(out.data(), 0, out.size());
            for (auto [at, entry] : entries_)
                if (at >= gpa.value && at + 8 <= gpa.value + out.size())
                    std::memcpy(out.data() + (at - gpa.value), &entry, 8);
            return {};
        }
        return failf("{:#x} is not RAM", gpa.value);
    }
    const std::vector<RamRange>& ram() const override { return ram_; }

  private:
    std::span<std::byte> region_;
    std::vector<RamRange> ram_;
    std::map<uint64_t, uint64_t> entries_;
};

class Built : public testing::TestWithParam<unsigned> {
  protected:
    void SetUp() override {
        file_ = FakePayload().file();
        auto payload = PayloadImage::parse(file_);
        ASSERT_TRUE(payload);
        Geometry g;
        g.slots = 8;
        g.ring_size = 0x10000;
        g.capacity = 66;
        g.text_size = static_cast<uint32_t>(payload->text().size);
        g.rodata_size = static_cast<uint32_t>(payload->rodata().size);
        g.data_size = static_cast<uint32_t>(payload->data().size);
        auto layout = Layout::make(g);
        ASSERT_TRUE(layout) << layout.error().message();
        layout_.emplace(*layout);
        // The real region is zeroed by the kernel.
        region_.resize(size_t{layout_->pages()} * SM_PAGE_SIZE);
        contents_.config.idt20_handler = 0xffffffff81234560;
        contents_.hooks = {{0xffffffff81000002, 1, SM_EVENT_SWITCH, 0, 10, 20},
                           {0xffffffff81000102, 2, SM_EVENT_SYSCALL_EXIT, 0, 30, 40}};
        displaced_.assign(0x1100, std::byte{0x77});
        contents_.displaced = displaced_;
        auto filled = fill_region(*layout_, *payload, contents_, region_gpa, region_);
        ASSERT_TRUE(filled) << filled.error().message();
        for (const kvm_views_protect& p : layout_->protections(region_gpa)) {
            for (uint32_t i = 0; i < p.pages; i++) {
                auto [at, fresh] =
                    rights_[p.view].emplace(p.gpa + uint64_t{i} * SM_PAGE_SIZE, p.rights);
                EXPECT_TRUE(fresh) << "two rights for one page";
            }
        }
    }
    uint8_t rights(unsigned view, Gpa gpa) {
        auto found = rights_[view].find(gpa.page().value);
        return found == rights_[view].end() ? 0 : found->second;
    }

    std::vector<std::byte> file_, region_, displaced_;
    std::optional<Layout> layout_;
    CompartmentContents contents_;
    std::map<uint64_t, uint8_t> rights_[KVM_VIEWS_COUNT];
};

struct Expected {
    uint64_t offset, size;
    uint8_t main, shadow;
    bool writable, executable;
};

std::vector<Expected> expected_areas(uint32_t slots, uint64_t ring_size) {
    constexpr uint8_t r = KVM_VIEWS_R, w = KVM_VIEWS_W, x = KVM_VIEWS_X;
    std::vector<Expected> areas = {
        {SM_GATE_OFFSET, 0x1000, x, r | x, false, true},
        {SM_DISPLACED_OFFSET, 0x3000, x, 0, false, true},
        {SM_TEXT_OFFSET, 0x2000, 0, r | x, false, true},
        {SM_RODATA_OFFSET, 0x1000, 0, r, false, false},
        {SM_CONFIG_OFFSET, 0x1000, 0, r, false, false},
        {SM_HOOKS_OFFSET, 0x2000, 0, r, false, false},
        {SM_DATA_OFFSET, 0x2000, 0, r | w, true, false},
        {SM_LIMITS_OFFSET, 0x1000, 0, r | w, true, false},
    };
    for (uint64_t i = 0; i < slots; i++) {
        uint64_t slot = SM_SLOTS_OFFSET + i * SM_SLOT_STRIDE;
        areas.push_back({slot, 0x1000, 0, r | w, true, false});
        areas.push_back({slot + SM_SLOT_STACK_OFFSET, SM_SLOT_STACK_SIZE, 0, r | w, true, false});
    }
    for (uint64_t i = 0; i < slots; i++) {
        uint64_t ring = SM_RINGS_OFFSET + i * SM_RING_STRIDE;
        areas.push_back({ring, SM_RING_DATA_OFFSET + ring_size, 0, r | w, true, false});
        areas.push_back({ring + SM_RING_COUNTERS_OFFSET, 0x1000, 0, r | w, true, false});
    }
    return areas;
}

TEST_P(Built, EveryAreaIsWhereItShouldBeAndNothingElseIs) {
    GuestWithRegion guest(region_, GetParam());
    PageTables tables(guest, tables_gpa, GetParam());
    std::map<uint64_t, uint64_t> seen; // region page -> gva
    uint64_t pages = 0;
    for (const Expected& area : expected_areas(8, 0x10000)) {
        for (uint64_t at = 0; at < area.size; at += SM_PAGE_SIZE) {
            Gva gva(SM_COMPARTMENT_GVA + area.offset + at);
            auto found = tables.walk(gva);
            ASSERT_TRUE(found) << std::hex << gva.value << found.error().message();
            EXPECT_EQ(found->page_size, uint64_t{SM_PAGE_SIZE});
            EXPECT_EQ(found->rights.writable, area.writable) << std::hex << gva.value;
            EXPECT_EQ(found->rights.executable, area.executable) << std::hex << gva.value;
            EXPECT_FALSE(found->rights.user);
            EXPECT_EQ(rights(KVM_VIEWS_MAIN, found->gpa), area.main) << std::hex << gva.value;
            EXPECT_EQ(rights(KVM_VIEWS_SHADOW, found->gpa), area.shadow) << std::hex << gva.value;
            EXPECT_TRUE(seen.emplace(found->gpa.value, gva.value).second) << "page mapped twice";
            pages++;
        }
    }
    uint64_t mapped = 0;
    ASSERT_TRUE(tables.for_each_mapped(
        Gva(SM_COMPARTMENT_GVA), SM_COMPARTMENT_SIZE,
        [&](const MappedRange& range) {
            mapped += range.size / SM_PAGE_SIZE;
            return true;
        },
        SM_COMPARTMENT_SIZE / SM_PAGE_SIZE));
    EXPECT_EQ(mapped, pages);
    EXPECT_EQ(pages + layout_->table_pages(), layout_->pages());
}

TEST_P(Built, TablePagesAreReadOnlyInBothViewsAndMappedNowhere) {
    for (uint32_t i = 0; i < layout_->table_pages(); i++) {
        Gpa gpa = region_gpa + uint64_t{i} * SM_PAGE_SIZE;
        EXPECT_EQ(rights(KVM_VIEWS_MAIN, gpa), KVM_VIEWS_R);
        EXPECT_EQ(rights(KVM_VIEWS_SHADOW, gpa), KVM_VIEWS_R);
    }
}

TEST_P(Built, EntriesNeedNoWriteByTheCpu) {
    for (uint32_t page = 0; page < layout_->table_pages(); page++) {
        for (unsigned i = 0; i < 512; i++) {
            uint64_t entry;
            std::memcpy(&entry, region_.data() + page * size_t{SM_PAGE_SIZE} + i * 8, 8);
            if (!(entry & 1))
                continue;
            EXPECT_TRUE(entry & 1 << 5) << "accessed";
            if (page != 0) {
                EXPECT_TRUE(entry & 1 << 6) << "dirty";
                EXPECT_TRUE(entry & 1 << 8) << "global";
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Levels, Built, testing::Values(4u, 5u));

using Contents = Built;
TEST_P(Contents, ConfigHooksSlotsAndChainJump) {
    auto page = [&](AreaKind kind, uint32_t index = 0) {
        return region_.data() + size_t{layout_->area(kind, index).first_page} * SM_PAGE_SIZE;
    };
    sm_config config;
    std::memcpy(&config, page(AreaKind::config), sizeof(config));
    EXPECT_EQ(config.magic, SM_CONFIG_MAGIC);
    EXPECT_EQ(config.version, uint32_t{SM_ABI_VERSION});
    EXPECT_EQ(config.slots, 8u);
    EXPECT_EQ(config.ring_size, 0x10000u);
    EXPECT_EQ(config.hook_mask, 255u);
    EXPECT_EQ(config.hook_capacity, 66u);

    const auto* table = reinterpret_cast<const sm_hook*>(page(AreaKind::hooks));
    for (const sm_hook& hook : contents_.hooks) {
        uint64_t index = sm_hook_index(hook.rip, config.hook_mask);
        while (table[index].rip && table[index].rip != hook.rip)
            index = (index + 1) & config.hook_mask;
        EXPECT_EQ(table[index].rip, hook.rip);
        EXPECT_EQ(table[index].id, hook.id);
    }
    for (uint32_t i = 0; i < 8; i++) {
        EXPECT_EQ(slot_in(*layout_, region_, i)->index, i);
        EXPECT_EQ(slot_in(*layout_, region_, i)->ring,
                  SM_COMPARTMENT_GVA + SM_RINGS_OFFSET + i * uint64_t{SM_RING_STRIDE});
        EXPECT_EQ(slot_in(*layout_, region_, i)->next_sample, SM_SAMPLE_PERIOD - 1u);
    }

    std::byte* jump = page(AreaKind::gate) + 0x20;
    int32_t rel;
    std::memcpy(&rel, jump + 1, sizeof(rel));
    uint64_t after = SM_COMPARTMENT_GVA + SM_GATE_OFFSET + 0x25;
    EXPECT_EQ(after + static_cast<uint64_t>(int64_t{rel}), contents_.config.idt20_handler);

    EXPECT_EQ(page(AreaKind::displaced)[0x10ff], std::byte{0x77});
    EXPECT_EQ(page(AreaKind::displaced)[0x1100], std::byte{0xcc});
    EXPECT_EQ(page(AreaKind::displaced)[0x2fff], std::byte{0xcc});
}
INSTANTIATE_TEST_SUITE_P(Levels, Contents, testing::Values(4u));

TEST(Layout, RefusesWhatDoesNotFit) {
    Geometry g;
    g.slots = 3;
    EXPECT_FALSE(Layout::make(g));
    g.slots = 128;
    EXPECT_FALSE(Layout::make(g));
    g.slots = 64;
    g.ring_size = 0x180000;
    EXPECT_FALSE(Layout::make(g));
    g.ring_size = SM_RING_MAX_DATA * 2;
    EXPECT_FALSE(Layout::make(g));
    g.ring_size = SM_RING_MAX_DATA; // 64 rings of 4 MiB are all of the region, and more
    auto layout = Layout::make(g);
    ASSERT_FALSE(layout);
    EXPECT_NE(layout.error().message().find("smaller rings"), std::string::npos);
    g.ring_size = SM_RING_MAX_DATA / 2;
    EXPECT_TRUE(Layout::make(g));
    for (uint32_t capacity : {0u, SM_MAX_HOOKS + 1u}) {
        g.capacity = capacity;
        EXPECT_FALSE(Layout::make(g));
    }
    g.capacity = SM_MAX_HOOKS;
    EXPECT_TRUE(Layout::make(g));
}

TEST(Geometry, HookTableIsAtMostHalfFull) {
    Geometry g;
    for (auto [capacity, entries] : {std::pair{1u, 128u},
                                     {64u, 128u},
                                     {65u, 256u},
                                     {default_hook_capacity, 4096u},
                                     {8192u, 16384u}}) {
        g.capacity = capacity;
        EXPECT_EQ(g.hook_entries(), entries);
    }
}

TEST(Geometry, AreasOfTheMostHooksDoNotMeet) {
    Geometry g;
    g.slots = 64;
    g.ring_size = SM_RING_MAX_DATA / 2;
    g.capacity = SM_MAX_HOOKS;
    g.text_size = SM_TEXT_MAX_SIZE;
    g.rodata_size = SM_RODATA_MAX_SIZE;
    g.data_size = SM_DATA_MAX_SIZE;
    auto layout = Layout::make(g);
    ASSERT_TRUE(layout) << layout.error().message();
    std::map<uint64_t, uint64_t> areas;
    for (const Area& area : layout->areas())
        if (area.kind != AreaKind::page_tables)
            areas[area.offset] = area.offset + uint64_t{area.pages} * SM_PAGE_SIZE;
    uint64_t end = 0;
    for (auto [from, to] : areas) {
        EXPECT_GE(from, end);
        EXPECT_FALSE(from < SM_VE_OFFSET + SM_MAX_VCPUS * SM_PAGE_SIZE && to > SM_VE_OFFSET);
        end = to;
    }
    EXPECT_LE(end, uint64_t{SM_COMPARTMENT_SIZE});
}

TEST(IdtEntry, RoundTrip) {
    IdtEntry entry = IdtEntry::interrupt_gate(Gva(0xffffffff40001234), 0x10);
    EXPECT_TRUE(entry.present());
    EXPECT_EQ(entry.handler(), Gva(0xffffffff40001234));
    EXPECT_EQ(entry.selector(), 0x10);
    EXPECT_EQ(entry.low, 0x40008e0000101234u);
    EXPECT_EQ(entry.high, 0xffffffffu);
    EXPECT_TRUE(in_compartment(entry.handler()));
    EXPECT_FALSE(in_compartment(Gva(0xffffffff80000000)));
    EXPECT_FALSE(in_compartment(Gva(0xffffffff3fffffff)));
}

TEST(Placement, LiesAboveMemoryAndBelowTheLimit) {
    std::vector<RamRange> occupied = {{Gpa(0), 0x80000000}, {Gpa(0x100000000), 0x80000000}};
    for (uint64_t draw : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{0x123456789abcdef}}) {
        for (unsigned bits : {33u, 36u, 40u, 46u, 52u}) {
            auto gpa = choose_region(occupied, bits, 100, [&] { return Result<uint64_t>(draw); });
            ASSERT_TRUE(gpa) << gpa.error().message();
            EXPECT_GE(gpa->value, 0x180000000u);
            EXPECT_LE(gpa->value + 100 * SM_PAGE_SIZE, uint64_t{1} << bits);
            EXPECT_EQ(gpa->page_offset(), 0u);
        }
    }
}

TEST(Placement, NoRoomIsSaid) {
    std::vector<RamRange> occupied = {{Gpa(0), uint64_t{1} << 36}};
    auto gpa = choose_region(occupied, 36, 1);
    ASSERT_FALSE(gpa);
    EXPECT_NE(gpa.error().message().find("no room"), std::string::npos);
    EXPECT_FALSE(choose_region(occupied, 60, 1));
}

TEST(Placement, IsRandom) {
    auto a = choose_region({}, 46, 1), b = choose_region({}, 46, 1);
    ASSERT_TRUE(a && b);
    EXPECT_NE(a->value, b->value);
}

} // namespace
} // namespace shadowmon
