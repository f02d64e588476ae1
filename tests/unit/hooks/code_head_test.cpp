// SPDX-License-Identifier: GPL-2.0-or-later
// Both ways to read an instruction's head, held against each other. Stock kernels' whole texts are
// held against Zydis in stock_survey_test.cpp.
#include "src/hooks/code_head.h"

#include <gtest/gtest.h>

#include <array>
#include <fmt/format.h>
#include <random>

namespace shadowmon {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
    std::string out;
    for (std::byte b : bytes)
        out += fmt::format("{:02x} ", static_cast<unsigned>(b));
    return out;
}

/// What the quick way says is what Zydis says. True if it says anything.
bool same(std::span<const std::byte> bytes) {
    auto quick = read_head_quickly(bytes);
    if (!quick)
        return false;
    auto zydis = read_head_by_zydis(bytes);
    EXPECT_TRUE(zydis) << text_of(bytes);
    EXPECT_TRUE(!zydis || *quick == *zydis) << text_of(bytes) << "length " << int{quick->length};
    return true;
}

/// Every opcode of both maps, with every byte behind it and what can stand in front of it.
TEST(CodeHead, EveryOpcode) {
    constexpr std::array<int, 3> nothing{-1, -1, -1};
    constexpr std::array<std::array<int, 3>, 16> prefixes{{nothing,
                                                           {0x48, -1, -1},
                                                           {0x41, -1, -1},
                                                           {0x66, -1, -1},
                                                           {0x66, 0x48, -1},
                                                           {0x65, -1, -1},
                                                           {0x65, 0x48, -1},
                                                           {0x2e, 0x66, -1},
                                                           {0x66, 0x2e, 0x4f},
                                                           {0xf0, -1, -1},
                                                           {0xf3, -1, -1},
                                                           {0xf2, -1, -1},
                                                           {0x67, -1, -1},
                                                           {0x66, 0x66, -1},
                                                           {0x48, 0x66, -1},
                                                           {0x65, 0x65, -1}}};
    size_t known = 0;
    for (const auto& front : prefixes)
        for (bool two : {false, true})
            for (int op = 0; op < 256; op++)
                for (int mod_rm = 0; mod_rm < 256; mod_rm++) {
                    std::vector<std::byte> code;
                    for (int byte : front)
                        if (byte >= 0)
                            code.push_back(static_cast<std::byte>(byte));
                    if (two)
                        code.push_back(std::byte{0x0f});
                    code.push_back(static_cast<std::byte>(op));
                    code.push_back(static_cast<std::byte>(mod_rm));
                    for (int i = 0; i < 12; i++)
                        code.push_back(static_cast<std::byte>(0x25 + 37 * i + mod_rm));
                    known += same(code);
                }
    EXPECT_GT(known, 300'000u);
}

TEST(CodeHead, BytesThatEndTooEarly) {
    std::mt19937 random(1);
    for (int round = 0; round < 300'000; round++) {
        std::array<std::byte, 18> code;
        for (std::byte& b : code)
            b = static_cast<std::byte>(random());
        auto whole = read_head_quickly(code);
        for (size_t n = 0; n < code.size(); n++) {
            auto some = read_head_quickly(std::span(code).first(n));
            if (whole && n >= whole->length)
                EXPECT_EQ(some, whole) << text_of(code);
            else
                EXPECT_FALSE(some && n < some->length) << text_of(code);
        }
        same(code);
    }
}

} // namespace
} // namespace shadowmon
