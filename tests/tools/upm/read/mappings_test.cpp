// SPDX-License-Identifier: MIT
//
// Parsers of /proc: names in it are chosen by others.
#include "tools/upm/read/mappings.hpp"

#include "tests/support/support.hpp"
#include "tools/common/errors.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

using test::TempDir;

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

TEST(HugetlbMounts, ByType) {
    Mount huge;
    huge.point = "/dev/hugepages";
    huge.type = "hugetlbfs";
    Mount other;
    other.point = "/tmp";
    other.type = "tmpfs";
    EXPECT_EQ(hugetlb_mounts({other, huge}), std::vector<std::string>{"/dev/hugepages/"});
}

} // namespace

} // namespace upm::tool::cli
