// SPDX-License-Identifier: MIT
#include "tools/common/sizes.hpp"

#include "tools/common/errors.hpp"

#include <gtest/gtest.h>

namespace upm::tool {

namespace {

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

TEST(FormatBytes, IsShort) {
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

TEST(ParseUnit, ChecksNames) {
    EXPECT_EQ(parse_unit("G"), Unit::kGib);
    EXPECT_THROW((void)parse_unit("g"), UsageError);
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

} // namespace

} // namespace upm::tool
