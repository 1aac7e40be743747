// SPDX-License-Identifier: MIT
//
// Names are chosen by others.
#include "tools/common/maps.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace upm::tool {

namespace {

Mapping parsed(std::string_view line) {
    const std::optional<Mapping> mapping = parse_mapping(line);
    EXPECT_TRUE(mapping.has_value()) << line;
    return mapping.value_or(Mapping());
}

TEST(Mapping, Anonymous) {
    const Mapping mapping = parsed("7f0a00000000-7f0a00021000 rw-p 00000000 00:00 0 ");
    EXPECT_EQ(mapping.start, 0x7f0a00000000U);
    EXPECT_EQ(mapping.end, 0x7f0a00021000U);
    EXPECT_EQ(mapping.size(), 0x21000U);
    EXPECT_STREQ(mapping.permissions, "rw-p");
    EXPECT_EQ(mapping.name, "");
    EXPECT_FALSE(mapping.file());
    EXPECT_FALSE(mapping.shared());
    EXPECT_TRUE(mapping.accessible());
}

TEST(Mapping, File) {
    const Mapping mapping =
        parsed("1000-2000 r-xs 000ab000 fe:00 1234                       /usr/lib/libx.so.1");
    EXPECT_EQ(mapping.offset, 0xab000U);
    EXPECT_EQ(mapping.inode, 1234U);
    EXPECT_TRUE(mapping.file());
    EXPECT_TRUE(mapping.shared());
    EXPECT_EQ(mapping.name, "/usr/lib/libx.so.1");
}

struct NameCase {
    const char *label;
    const char *name;
};

class MappingName : public testing::TestWithParam<NameCase> {};

TEST_P(MappingName, IsKeptAsItIs) {
    EXPECT_EQ(parsed(fmt::format("1000-2000 r--p 0 00:1f 9      {}", GetParam().name)).name,
              GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(
    Odd, MappingName,
    testing::Values(NameCase{"Spaces", "/a b  c d"}, NameCase{"TrailingSpace", "/a "},
                    NameCase{"EscapedNewline", "/a\\012b"}, NameCase{"NotUtf8", "/a\xff\xfe"},
                    NameCase{"Tab", "/a\tb"}, NameCase{"LooksLikeALine", "/1000-2000 rw-p 0 0:0 0"},
                    NameCase{"Bracket", "[anon: x y]"}, NameCase{"Memfd", "/memfd:a b (deleted)"}),
    [](const auto &test) { return test.param.label; });

TEST(Mapping, Deleted) {
    EXPECT_TRUE(parsed("1000-2000 r--p 0 00:1f 9 /a b (deleted)").deleted());
    EXPECT_FALSE(parsed("1000-2000 r--p 0 00:1f 9 /a b").deleted());
    EXPECT_FALSE(parsed("1000-2000 r--p 0 00:00 0 [x (deleted)").deleted());
}

TEST(Mapping, NoAccess) {
    EXPECT_FALSE(parsed("1000-2000 ---p 0 00:00 0").accessible());
    EXPECT_TRUE(parsed("1000-2000 --xp 0 00:00 0").accessible());
}

TEST(Mapping, RefusesOtherLines) {
    for (const char *line :
         {"", " ", "1000-2000", "1000-2000 rw-p", "1000-2000 rw-p 0", "1000-2000 rw-p 0 00:00",
          "1000-2000 rw-p 0 00:00 x", "1000 rw-p 0 00:00 0", "2000-1000 rw-p 0 00:00 0",
          "1000-1000 rw-p 0 00:00 0", "1000-2000 rw 0 00:00 0", "1000-2000 rw-p z 00:00 0",
          "1000-2000 rw-p 0 0000 0", "Size:   4 kB", "-2000 rw-p 0 00:00 0",
          "11111111111111111-2 rw-p 0 00:00 0"})
        EXPECT_FALSE(parse_mapping(line).has_value()) << line;
}

TEST(Mapping, SpecialAreTheKernelsOwn) {
    for (const char *name : {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"})
        EXPECT_TRUE(parsed(fmt::format("1000-2000 r-xp 0 00:00 0 {}", name)).special()) << name;
    for (const char *name : {"[heap]", "[stack]", "[anon:x]", "/vdso", ""})
        EXPECT_FALSE(parsed(fmt::format("1000-2000 r-xp 0 00:00 0 {}", name)).special()) << name;
}

} // namespace

} // namespace upm::tool
