// SPDX-License-Identifier: GPL-2.0-or-later
// The loader takes the payload this program carries, and refuses files that are not
// as payload/symbols.h promises, wherever they were cut or changed.
#include "src/compartment/payload_image.h"

#include "tests/unit/compartment/fake_payload.h"

#include <gtest/gtest.h>

namespace shadowmon {
namespace {

TEST(PayloadImage, TakesTheEmbeddedPayload) {
    auto image = PayloadImage::parse(embedded_payload());
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->gate().start, Gva(SM_COMPARTMENT_GVA + SM_GATE_OFFSET));
    EXPECT_EQ(image->gate().size, uint64_t{SM_PAGE_SIZE});
    auto call = image->symbol(SM_SYMBOL_GATE_CALL);
    ASSERT_TRUE(call);
    EXPECT_EQ(image->gate().bytes[*call - image->gate().start], std::byte{0x9c}) << "pushfq";
    auto jump = image->symbol(SM_SYMBOL_GATE_CHAIN_JUMP);
    ASSERT_TRUE(jump);
    EXPECT_EQ(image->gate().bytes[*jump - image->gate().start], std::byte{0xe9});
}

TEST(PayloadImage, TakesAFileAsDescribed) {
    auto file = FakePayload().file();
    auto image = PayloadImage::parse(file);
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->segments().size(), 4u);
    EXPECT_EQ(image->data().bytes.size(), 0x10u);
    EXPECT_EQ(image->data().size, 0x1800u);
    EXPECT_FALSE(image->symbol("absent"));
}

TEST(PayloadImage, RefusesDeviations) {
    auto error = [](const FakePayload& payload) {
        auto file = payload.file();
        auto image = PayloadImage::parse(file);
        return image ? std::string() : image.error().message();
    };
    FakePayload moved;
    moved.programs[1].p_vaddr += 0x1000;
    EXPECT_NE(error(moved).find("text segment"), std::string::npos);
    FakePayload big;
    big.programs[3].p_memsz = SM_DATA_MAX_SIZE + 1;
    EXPECT_NE(error(big).find("data segment"), std::string::npos);
    FakePayload writable;
    writable.programs[0].p_flags |= PF_W;
    EXPECT_NE(error(writable).find("gate segment"), std::string::npos);
    FakePayload missing;
    missing.programs.pop_back();
    EXPECT_NE(error(missing).find("3 segments"), std::string::npos);
    FakePayload extra;
    extra.programs.push_back(extra.programs[3]);
    EXPECT_NE(error(extra).find("more than 4"), std::string::npos);
    FakePayload other_version;
    other_version.version = SM_ABI_VERSION + 1;
    EXPECT_NE(error(other_version).find("another version"), std::string::npos);
    FakePayload outside;
    outside.symbols[0].st_value = SM_COMPARTMENT_GVA + SM_TEXT_OFFSET;
    EXPECT_NE(error(outside).find("outside the gate"), std::string::npos);
    FakePayload nameless;
    nameless.symbols[2].st_name = 0xffffff;
    EXPECT_NE(error(nameless).find(SM_SYMBOL_GATE_CHAIN_JUMP), std::string::npos);
}

TEST(PayloadImage, SurvivesCutsAndFlips) {
    auto file = FakePayload().file();
    for (size_t size = 0; size < 2000; size++)
        (void)PayloadImage::parse(std::span(file).first(size));
    for (size_t i = 0; i < 2000; i++) {
        for (int value : {0x00, 0x7f, 0xff}) {
            auto spoiled = file;
            spoiled[i] = static_cast<std::byte>(value);
            (void)PayloadImage::parse(spoiled);
        }
    }
}

} // namespace
} // namespace shadowmon
