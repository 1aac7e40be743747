// SPDX-License-Identifier: MIT
#include "tools/upm/model/selection.hpp"

#include "tools/common/errors.hpp"

#include <gtest/gtest.h>

namespace upm::tool::cli {

namespace {

TEST(ParsePid, TakesPositiveNumbers) {
    EXPECT_EQ(parse_pid("1"), 1);
    EXPECT_EQ(parse_pid("2147483647"), 2147483647);
    for (const char *bad : {"", "0", "-1", "x", "1x", " 1", "2147483648", "self"})
        EXPECT_THROW((void)parse_pid(bad), UsageError) << bad;
}

TEST(ParseRange, TakesHexadecimal) {
    for (const char *text : {"12:7f00-8f00", "12:0x7f00-0x8f00", "12:7F00-0X8F00"}) {
        const Target target = parse_range(text);
        EXPECT_EQ(target.pid, 12);
        ASSERT_EQ(target.ranges.size(), 1U);
        EXPECT_EQ(target.ranges[0].start, 0x7f00U);
        EXPECT_EQ(target.ranges[0].end, 0x8f00U);
        EXPECT_FALSE(target.may_vanish);
    }
    for (const char *bad : {"", "12", "12:", "12:-", "12:1-", "12:-2", "12:2-1", "12:1-1", "1-2",
                            ":1-2", "x:1-2", "12:1-2-3", "12:1-10000000000000000", "-1:1-2"})
        EXPECT_THROW((void)parse_range(bad), UsageError) << bad;
}

Mapping mapping(std::uint64_t start, std::uint64_t end, const char *permissions = "rw-p",
                std::uint64_t inode = 0, const std::string &name = "") {
    Mapping made;
    made.start = start;
    made.end = end;
    std::string_view(permissions).copy(made.permissions, 4);
    made.inode = inode;
    made.name = name;
    return made;
}

unsigned left_out(const Mapping &one, LeftOut why, const Filter &filter = {}) {
    const Selection selection = select({one}, {.pid = 1, .ranges = {}}, filter);
    EXPECT_EQ(selection.mappings.size() + selection.left_out.at(static_cast<std::size_t>(why)), 1U);
    return selection.left_out.at(static_cast<std::size_t>(why));
}

TEST(Select, TakesPrivateMemory) {
    EXPECT_EQ(select({mapping(0x1000, 0x2000), mapping(0x3000, 0x5000, "r-xp", 5, "/lib/x.so"),
                      mapping(0x6000, 0x7000, "rw-p", 0, "[heap]"),
                      mapping(0x8000, 0x9000, "rw-p", 0, "[stack]"),
                      mapping(0xa000, 0xb000, "r--p", 5, "/vdso copy")},
                     {.pid = 1, .ranges = {}}, {})
                  .mappings.size(),
              5U);
}

TEST(Select, LeavesOut) {
    EXPECT_EQ(left_out(mapping(0x1000, 0x2000, "rw-s"), LeftOut::kShared), 1U);
    EXPECT_EQ(left_out(mapping(0x1000, 0x2000, "---p"), LeftOut::kNoAccess), 1U);
    for (const char *name : {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"})
        EXPECT_EQ(left_out(mapping(0x1000, 0x2000, "r-xp", 0, name), LeftOut::kSpecial), 1U)
            << name;
    EXPECT_EQ(
        left_out(mapping(0x1000, 0x2000, "rw-p", 5, "/anon_hugepage (deleted)"), LeftOut::kHugetlb),
        1U);
    const Filter huge{.hugetlb_mounts = {"/dev/hugepages/"}};
    EXPECT_EQ(
        left_out(mapping(0x1000, 0x2000, "rw-p", 5, "/dev/hugepages/a"), LeftOut::kHugetlb, huge),
        1U);
    EXPECT_EQ(
        left_out(mapping(0x1000, 0x2000, "rw-p", 5, "/dev/hugepages2"), LeftOut::kHugetlb, huge),
        0U);
}

TEST(Select, Filters) {
    const Filter anonymous{.anon_only = true};
    EXPECT_EQ(left_out(mapping(0x1000, 0x2000, "rw-p", 5, "/a"), LeftOut::kFile, anonymous), 1U);
    EXPECT_EQ(left_out(mapping(0x1000, 0x2000), LeftOut::kFile, anonymous), 0U);
    const Filter big{.min_bytes = 0x1001};
    EXPECT_EQ(left_out(mapping(0x1000, 0x2000), LeftOut::kSmall, big), 1U);
    EXPECT_EQ(left_out(mapping(0x1000, 0x3000), LeftOut::kSmall, big), 0U);
    const Filter page{.min_bytes = 0x1000};
    EXPECT_EQ(left_out(mapping(0x1000, 0x2000), LeftOut::kSmall, page), 0U) << "just as large";
}

TEST(Select, CutsToTheRanges) {
    const Selection selection =
        select({mapping(0x1000, 0x5000), mapping(0x6000, 0x8000), mapping(0x9000, 0xa000)},
               {.pid = 1, .ranges = {{0x2000, 0x7000}, {0x4000, 0x4800}}}, {});
    ASSERT_EQ(selection.mappings.size(), 3U);
    EXPECT_EQ(selection.mappings[0].start, 0x2000U);
    EXPECT_EQ(selection.mappings[0].end, 0x5000U);
    EXPECT_EQ(selection.mappings[1].start, 0x4000U);
    EXPECT_EQ(selection.mappings[1].end, 0x4800U);
    EXPECT_EQ(selection.mappings[2].start, 0x6000U);
    EXPECT_EQ(selection.mappings[2].end, 0x7000U);
}

} // namespace

} // namespace upm::tool::cli
