// SPDX-License-Identifier: MIT
//
// Parsers of /proc: names in it are chosen by others.
#include "tools/upm/mappings.hpp"

#include "tests/support/support.hpp"
#include "tools/upm/errors.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace upm::tool {

namespace {

using test::TempDir;

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
          "Size:   4 kB", "-2000 rw-p 0 00:00 0"})
        EXPECT_FALSE(parse_mapping(line).has_value()) << line;
}

TEST(ReadMappings, Huge) {
    const TempDir dir;
    std::string text;
    constexpr std::uint64_t kLines = 70000; // above vm.max_map_count's default
    for (std::uint64_t i = 1; i <= kLines; ++i)
        text += fmt::format("{:x}-{:x} rw-p 00000000 00:00 0 \n", i * 0x2000, i * 0x2000 + 0x1000);
    dir.write("proc/7/maps", text);
    const std::vector<Mapping> mappings = read_mappings(Root(dir.path()), 7);
    ASSERT_EQ(mappings.size(), kLines);
    EXPECT_EQ(mappings.back().start, kLines * 0x2000);
}

TEST(ReadMappings, LongNameAndNoNewlineAtTheEnd) {
    const TempDir dir;
    const std::string name = "/" + std::string(100000, 'n');
    dir.write("proc/7/maps", "1000-2000 r--p 0 00:1f 9 " + name + "\n3000-4000 r--p 0 00:00 0");
    const std::vector<Mapping> mappings = read_mappings(Root(dir.path()), 7);
    ASSERT_EQ(mappings.size(), 2U);
    EXPECT_EQ(mappings[0].name, name);
}

TEST(ReadMappings, GoneProcessIsNoSuchProcess) {
    const TempDir dir;
    try {
        (void)read_mappings(Root(dir.path()), 7);
        FAIL() << "did not throw";
    } catch (const SystemError &error) {
        EXPECT_EQ(error.error(), ESRCH);
        EXPECT_NE(std::string(error.what()).find("/proc/7/maps: No such process"),
                  std::string::npos)
            << error.what();
    }
}

TEST(ReadMappings, UnreadableIsAnError) {
    const TempDir dir;
    dir.mkdir("proc/7/maps"); // a folder opens, but does not read
    try {
        (void)read_mappings(Root(dir.path()), 7);
        FAIL() << "did not throw";
    } catch (const SystemError &error) {
        EXPECT_EQ(error.error(), EISDIR);
    }
}

TEST(ReadMappings, OfThisProcess) {
    const test::Pages pages(2);
    bool found = false;
    for (const Mapping &mapping : read_mappings(Root(), ::getpid()))
        found = found || (mapping.start <= reinterpret_cast<std::uint64_t>(pages.data()) &&
                          reinterpret_cast<std::uint64_t>(pages.data()) < mapping.end);
    EXPECT_TRUE(found);
}

TEST(Mount, Parses) {
    const auto mount = parse_mount("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 "
                                   "/dev/root rw,errors=continue");
    ASSERT_TRUE(mount.has_value());
    EXPECT_EQ(mount->root, "/mnt1");
    EXPECT_EQ(mount->point, "/mnt2");
    EXPECT_EQ(mount->type, "ext3");
    EXPECT_EQ(mount->super_options, "rw,errors=continue");
}

TEST(Mount, WithoutOptionalFields) {
    const auto mount = parse_mount("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu");
    ASSERT_TRUE(mount.has_value());
    EXPECT_EQ(mount->type, "cgroup");
    EXPECT_EQ(mount->super_options, "rw,cpu");
}

TEST(Mount, UndoesEscapes) {
    const auto mount = parse_mount(R"(1 1 0:1 / /a\040b\134c\011d\012e\777 rw - tmpfs x rw)");
    ASSERT_TRUE(mount.has_value());
    EXPECT_EQ(mount->point.substr(0, 10), "/a b\\c\td\ne");
    EXPECT_EQ(parse_mount("1 1 0:1 / /a\\04 rw - tmpfs x rw")->point, "/a\\04");
    EXPECT_EQ(parse_mount("1 1 0:1 / /a\\ rw - tmpfs x rw")->point, "/a\\");
}

TEST(Mount, RefusesOtherLines) {
    for (const char *line : {"", "1 2 3 / /x rw", "1 2 3 / /x rw -", "36 35 98:0 /mnt1"})
        EXPECT_FALSE(parse_mount(line).has_value()) << line;
}

TEST(CommandName, MayHoldAnything) {
    const TempDir dir;
    dir.write("proc/7/comm", "a b\n");
    dir.write("proc/8/comm", "a\nb\n");
    EXPECT_EQ(command_name(Root(dir.path()), 7), "a b");
    EXPECT_EQ(command_name(Root(dir.path()), 8), "a\nb");
    EXPECT_EQ(command_name(Root(dir.path()), 9), "");
}

TEST(Root, Reads) {
    const TempDir dir;
    dir.write("a/number", "42\n");
    dir.write("a/text", " some text \nmore\n");
    dir.write("a/empty", "");
    dir.mkdir("a/folder");
    const Root root(dir.path() + "//");
    EXPECT_EQ(root.number("/a/number"), 42U);
    EXPECT_EQ(root.number("/a/text"), std::nullopt);
    EXPECT_EQ(root.first_line("/a/text"), "some text");
    EXPECT_EQ(root.first_line("/a/empty"), std::nullopt);
    EXPECT_EQ(root.first_line("/a/none"), std::nullopt);
    EXPECT_TRUE(root.is_directory("/a/folder"));
    EXPECT_FALSE(root.is_directory("/a/text"));
    const std::vector<Root::Entry> entries = root.list("/a");
    ASSERT_EQ(entries.size(), 4U);
    EXPECT_EQ(entries[0].name, "empty");
    EXPECT_TRUE(entries[1].directory);
    EXPECT_TRUE(root.list("/none").empty());
}

} // namespace

} // namespace upm::tool
