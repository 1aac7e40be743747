// SPDX-License-Identifier: MIT
#include "tools/pss-report/text.hpp"

#include "tools/pss-report/errors.hpp"

#include <gtest/gtest.h>

namespace upm::pss {

namespace {

TEST(Text, BytesAreShort) {
    EXPECT_EQ(format_bytes(0, Unit::kAuto), "0");
    EXPECT_EQ(format_bytes(1023, Unit::kAuto), "1023");
    EXPECT_EQ(format_bytes(1024, Unit::kAuto), "1.0K");
    EXPECT_EQ(format_bytes(1024 * 1024 - 1, Unit::kAuto), "1.0M");
    EXPECT_EQ(format_bytes(999 * 1024, Unit::kAuto), "999K");
    EXPECT_EQ(format_bytes(UINT64_MAX, Unit::kAuto), "16.0E");
    EXPECT_EQ(format_bytes(3 << 20, Unit::kMib), "3.0");
    EXPECT_EQ(format_bytes(8192, Unit::kPages, 4096), "2");
    EXPECT_EQ(format_change(-2048, Unit::kAuto), "-2.0K");
    EXPECT_EQ(format_change(2048, Unit::kKib), "+2");
    EXPECT_EQ(format_change(INT64_MIN, Unit::kAuto), "-8.0E");
    EXPECT_EQ(format_change(0, Unit::kMib), "0");
}

TEST(Text, UnitsAreChecked) {
    EXPECT_EQ(parse_unit("G"), Unit::kGib);
    EXPECT_THROW((void)parse_unit("g"), UsageError);
    EXPECT_EQ(parse_bytes("2M"), 2U << 20U);
    EXPECT_EQ(parse_bytes("M"), std::nullopt);
    EXPECT_EQ(parse_bytes("99999999999G"), std::nullopt);
}

// Who names a process must not be able to steer the terminal of who looks at it.
TEST(Text, PrintableKeepsUtf8AndNothingElse) {
    EXPECT_EQ(printable("a b"), "a b");
    EXPECT_EQ(printable("\x1b[31m\n\x7f"), "\\x1b[31m\\x0a\\x7f");
    EXPECT_EQ(printable("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
    EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b");                   // an 8-bit CSI
    EXPECT_EQ(printable("\xff\xc0\x80"), "\\xff\\xc0\\x80");          // never UTF-8
    EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");          // a surrogate
    EXPECT_EQ(printable("\xe2\x82"), "\\xe2\\x82");                   // cut off
    EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80"); // above U+10FFFF
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
}

} // namespace

} // namespace upm::pss
