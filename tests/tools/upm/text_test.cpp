// SPDX-License-Identifier: MIT
#include "tools/upm/text.hpp"

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

TEST(ParseUnsigned, TakesAllOrNothing) {
    EXPECT_EQ(parse_unsigned("0", 10), 0U);
    EXPECT_EQ(parse_unsigned("18446744073709551615", 10), ~0ULL);
    EXPECT_EQ(parse_unsigned("ffff", 16), 0xffffU);
    for (const char *bad : {"", " 1", "1 ", "-1", "+1", "1x", "0x1", "18446744073709551616"})
        EXPECT_EQ(parse_unsigned(bad, 10), std::nullopt) << bad;
}

TEST(ParseBytes, KnowsUnits) {
    EXPECT_EQ(parse_bytes("0"), 0U);
    EXPECT_EQ(parse_bytes("123"), 123U);
    EXPECT_EQ(parse_bytes("4K"), 4096U);
    EXPECT_EQ(parse_bytes("2M"), 2U << 20);
    EXPECT_EQ(parse_bytes("1G"), 1U << 30);
    EXPECT_EQ(parse_bytes("1T"), 1ULL << 40);
    for (const char *bad : {"", "K", "1k", "1.5M", "-1", "1KB", "99999999999T"})
        EXPECT_EQ(parse_bytes(bad), std::nullopt) << bad;
}

TEST(Human, Bytes) {
    EXPECT_EQ(human_bytes(0), "0 B");
    EXPECT_EQ(human_bytes(1023), "1023 B");
    EXPECT_EQ(human_bytes(1024), "1.0 KiB");
    EXPECT_EQ(human_bytes(1536), "1.5 KiB");
    EXPECT_EQ(human_bytes(1024 * 1024 - 1), "1.0 MiB");
    EXPECT_EQ(human_bytes(~0ULL), "16.0 EiB");
}

TEST(Human, Seconds) {
    EXPECT_EQ(human_seconds(0), "0 us");
    EXPECT_EQ(human_seconds(1.5e-5), "15 us");
    EXPECT_EQ(human_seconds(0.0123), "12.3 ms");
    EXPECT_EQ(human_seconds(12.345), "12.35 s");
}

TEST(Table, Aligns) {
    Table table({{"NAME", Table::Align::kLeft}, {"N"}, {"LAST", Table::Align::kLeft}});
    table.add({"a", "1", ""});
    table.add({"long name", "12345", "x"});
    EXPECT_EQ(table.text(), "NAME           N  LAST\n"
                            "a              1\n"
                            "long name  12345  x\n");
}

TEST(Table, CountsCharactersNotBytes) {
    Table table({{"N", Table::Align::kLeft}, {"X"}});
    table.add({"äöü", "1"});
    table.add({"abc", "2"});
    EXPECT_EQ(table.text(), "N    X\näöü  1\nabc  2\n");
}

} // namespace

} // namespace upm::tool
