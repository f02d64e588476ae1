// SPDX-License-Identifier: GPL-2.0-or-later
#include <shadowmonitor/escape.h>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>

namespace shadowmon {
namespace {

using namespace std::string_literals;

TEST(Escape, LeavesOrdinaryNamesAlone) {
    EXPECT_EQ(escape("kworker/0:1H-kb", true), "kworker/0:1H-kb");
    EXPECT_EQ(escape("tmux: server", false), "tmux: server");
    EXPECT_EQ(escape("", true), "");
}

TEST(Escape, HidesBlanksWhereColumnsCount) {
    EXPECT_EQ(escape("tmux: server", true), "tmux:\\x20server");
}

TEST(Escape, DoublesBackslashes) {
    EXPECT_EQ(escape("a\\x41", false), "a\\\\x41");
    EXPECT_EQ(unescape("a\\\\x41"), "a\\x41");
}

TEST(Escape, TakesTheSenseFromControls) {
    EXPECT_EQ(escape("\x1b[2J\n\0\x7f"s, false), "\\x1b[2J\\x0a\\x00\\x7f");
}

TEST(Escape, KeepsValidUtf8) {
    EXPECT_EQ(escape("Ärger", true), "Ärger");
    EXPECT_EQ(escape("日本", true), "日本");
    EXPECT_EQ(escape("🐧", true), "🐧");
}

TEST(Escape, TakesEachByteOfBrokenUtf8ByItself) {
    EXPECT_EQ(escape("\xff", true), "\\xff");
    EXPECT_EQ(escape("a\xc3", true), "a\\xc3");                          // cut off
    EXPECT_EQ(escape("\xc3(", true), "\\xc3(");                          // not continued
    EXPECT_EQ(escape("\x80", true), "\\x80");                            // nothing to continue
    EXPECT_EQ(escape("\xc0\xaf", true), "\\xc0\\xaf");                   // overlong /
    EXPECT_EQ(escape("\xe0\x80\xaf", true), "\\xe0\\x80\\xaf");          // overlong
    EXPECT_EQ(escape("\xed\xa0\x80", true), "\\xed\\xa0\\x80");          // a surrogate
    EXPECT_EQ(escape("\xf4\x90\x80\x80", true), "\\xf4\\x90\\x80\\x80"); // beyond Unicode
    EXPECT_EQ(escape("\xe6\x97", true), "\\xe6\\x97"); // cut off by the name's end
}

TEST(Escape, HidesWhatChangesTheRestOfALine) {
    EXPECT_EQ(escape("\xe2\x80\xae", true), "\\xe2\\x80\\xae");          // U+202E, right to left
    EXPECT_EQ(escape("\xc2\x9b", true), "\\xc2\\x9b");                   // U+009B, control sequence
    EXPECT_EQ(escape("\xe2\x80\x8b", true), "\\xe2\\x80\\x8b");          // U+200B, no width
    EXPECT_EQ(escape("\xef\xbb\xbf", true), "\\xef\\xbb\\xbf");          // byte-order mark
    EXPECT_EQ(escape("\xf3\xa0\x81\x81", true), "\\xf3\\xa0\\x81\\x81"); // tag
}

TEST(Unescape, KeepsWhatEscapeNeverWrites) {
    EXPECT_EQ(unescape("a\\"), "a\\");
    EXPECT_EQ(unescape("\\x4"), "\\x4");
    EXPECT_EQ(unescape("\\xzz\\n"), "\\xzz\\n");
}

RC_GTEST_PROP(EscapeProperty, IsUndoneByUnescape, (const std::string& bytes, bool blanks)) {
    RC_ASSERT(unescape(escape(bytes, blanks)) == bytes);
}

RC_GTEST_PROP(EscapeProperty, GivesValidUtf8WithoutControls, (bool blanks)) {
    const auto bytes = *rc::gen::container<std::string>(rc::gen::arbitrary<char>());
    const std::string safe = escape(bytes, blanks);
    RC_ASSERT(safe.size() <= 4 * bytes.size());
    RC_ASSERT(unescape(safe) == bytes);
    for (const char c : safe)
        RC_ASSERT(static_cast<unsigned char>(c) >= (blanks ? 0x21 : 0x20) && c != 0x7f);
    // Throws if it is no valid UTF-8.
    static_cast<void>(nlohmann::json(safe).dump());
}

} // namespace
} // namespace shadowmon
