// SPDX-License-Identifier: MIT
#include "tools/common/text.hpp"

#include <gtest/gtest.h>

namespace upm::tool {

namespace {

TEST(Printable, KeepsText) {
    EXPECT_EQ(printable("plain text"), "plain text");
    EXPECT_EQ(printable("Grüße, 世界 🌍"), "Grüße, 世界 🌍");
    EXPECT_EQ(printable(""), "");
}

// A file can be called "\e]0;...": names must not steer the terminal of root.
TEST(Printable, EscapesControls) {
    EXPECT_EQ(printable("a\x1b[2Jb"), "a\\x1b[2Jb");
    EXPECT_EQ(printable("a\nb\tc\x7f"), "a\\x0ab\\x09c\\x7f");
    EXPECT_EQ(printable("a\xc2\x9b"
                        "31m"),
              "a\\xc2\\x9b31m");
    EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

TEST(Printable, EscapesWhatIsNotUtf8) {
    EXPECT_EQ(printable("\xff\xfe"), "\\xff\\xfe");
    EXPECT_EQ(printable("a\xc3"), "a\\xc3");                 // cut off
    EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf");          // overlong
    EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80"); // surrogate
    EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
    EXPECT_EQ(printable("\xe4\xb8x"), "\\xe4\\xb8x");
}

TEST(ParseInteger, TakesAllOrNothing) {
    EXPECT_EQ(parse_integer<unsigned>("0"), 0U);
    EXPECT_EQ(parse_integer<std::uint64_t>("18446744073709551615"), ~0ULL);
    EXPECT_EQ(parse_integer<unsigned>("ffff", 16), 0xffffU);
    EXPECT_EQ(parse_integer<int>("-1"), -1);
    for (const char *bad : {"", " 1", "1 ", "-1", "+1", "1x", "0x1", "18446744073709551616"})
        EXPECT_EQ(parse_integer<std::uint64_t>(bad), std::nullopt) << bad;
}

TEST(Text, ShortenedCountsCharacters) {
    EXPECT_EQ(shortened("abc", 3), "abc");
    EXPECT_EQ(shortened("abcd", 3), "ab…");
    EXPECT_EQ(shortened("\xc3\xbc\xc3\xbc\xc3\xbc", 2), "\xc3\xbc…");
    EXPECT_EQ(shortened("abc", 0), "");
}

TEST(Text, XmlIsEscaped) {
    EXPECT_EQ(xml_escaped("<a b='c'>\"&"), "&lt;a b=&#39;c&#39;&gt;&quot;&amp;");
    EXPECT_EQ(xml_escaped("\x01\xff"), "\xef\xbf\xbd\xef\xbf\xbd");
    // No characters of XML, though they are UTF-8.
    for (const char *text : {"\xef\xbf\xbe", "\xef\xbf\xbf"}) {
        EXPECT_EQ(xml_escaped(text), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
        EXPECT_EQ(printable(text).substr(0, 8), "\\xef\\xbf");
    }
    EXPECT_EQ(xml_escaped("\xef\xbf\xbd"), "\xef\xbf\xbd");
}

TEST(Text, AShellTakesAWordAsItIs) {
    EXPECT_EQ(shell_word("/etc/cdi/a-b.json"), "/etc/cdi/a-b.json");
    EXPECT_EQ(shell_word("a b"), "'a b'");
    EXPECT_EQ(shell_word("a'$(b)"), R"('a'\''$(b)')");
    EXPECT_EQ(shell_word(""), "''");
}

TEST(Text, WordsAreTakenOff) {
    std::string_view text = "  a bc ";
    EXPECT_EQ(take_word(text), "a");
    EXPECT_EQ(take_word(text), "bc");
    EXPECT_EQ(take_word(text), "");
    EXPECT_EQ(text, "");
}

} // namespace

} // namespace upm::tool
