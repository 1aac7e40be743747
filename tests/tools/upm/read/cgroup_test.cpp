// SPDX-License-Identifier: MIT
#include "tools/upm/read/cgroup.hpp"

#include "tests/support/support.hpp"
#include "tools/common/errors.hpp"

#include <cerrno>
#include <cstdio>
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string_view>

namespace {

const char *no_device = ""; // a file of this name says ENODEV

} // namespace

// Comes before libc's.
extern "C" std::FILE *fopen(const char *name, const char *mode) {
    using Open = std::FILE *(*)(const char *, const char *);
    static const auto real = reinterpret_cast<Open>(::dlsym(RTLD_NEXT, "fopen"));
    if (*no_device != '\0' && std::string_view(name).ends_with(no_device)) {
        errno = ENODEV;
        return nullptr;
    }
    return real(name, mode);
}

namespace upm::tool::cli {

namespace {

using test::TempDir;
using testing::ElementsAre;
using testing::HasSubstr;

// Version 1 hierarchies and one of version 2, as on hybrid systems.
class Cgroup : public testing::Test {
  protected:
    void SetUp() override {
        dir.write("proc/self/mountinfo", "20 1 0:20 / / rw - ext4 /dev/vda rw\n"
                                         "32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n"
                                         "35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n"
                                         "41 31 0:38 / /cg/ver\\0402 rw - cgroup2 cgroup2 rw\n");
        group("cg/cpu", "");
        group("cg/memory", "");
        group("cg/ver 2", "1\n");
    }
    void group(const std::string &path, const std::string &members) const {
        dir.write(path + "/cgroup.procs", members);
    }
    [[nodiscard]] std::string find(std::string_view name) const { return find_cgroup(root, name); }

    const TempDir dir;
    const Root root{dir.path()};
};

TEST_F(Cgroup, ByPath) {
    group("cg/memory/a", "");
    EXPECT_EQ(find("/cg/memory/a"), "/cg/memory/a");
    EXPECT_EQ(find("/cg/memory/a/"), "/cg/memory/a");
}

TEST_F(Cgroup, BelowTheMount) {
    group("cg/ver 2/s.slice/x,y", "");
    EXPECT_EQ(find("s.slice/x,y"), "/cg/ver 2/s.slice/x,y");
    EXPECT_EQ(find("/s.slice/x,y"), "/cg/ver 2/s.slice/x,y") << "as in /proc/PID/cgroup";
    EXPECT_EQ(find("/"), "/cg/ver 2");
}

TEST_F(Cgroup, PrefersVersion2ThenMemory) {
    group("cg/cpu/a", "");
    EXPECT_EQ(find("a"), "/cg/cpu/a");
    group("cg/memory/a", "");
    EXPECT_EQ(find("a"), "/cg/memory/a");
    group("cg/ver 2/a", "");
    EXPECT_EQ(find("a"), "/cg/ver 2/a");
}

TEST_F(Cgroup, MissingSaysWhereItLooked) {
    dir.mkdir("cg/memory/no-group");
    try {
        (void)find("no-group");
        FAIL() << "did not throw";
    } catch (const SystemError &error) {
        EXPECT_EQ(error.error(), ENOENT);
        EXPECT_THAT(error.what(), HasSubstr("/cg/ver 2/no-group, /cg/memory/no-group"));
    }
}

TEST_F(Cgroup, NoHierarchy) {
    dir.write("proc/self/mountinfo", "20 1 0:20 / / rw - ext4 /dev/vda rw\n");
    try {
        (void)find("a");
        FAIL() << "did not throw";
    } catch (const SystemError &error) {
        EXPECT_THAT(error.what(), HasSubstr("no hierarchy is mounted"));
    }
}

TEST_F(Cgroup, MembersOfTheSubtree) {
    group("cg/memory/a", "30\n10\n");
    group("cg/memory/a/b", "20\n10\n");
    group("cg/memory/a/b/c", "40\n");
    group("cg/memory/other", "50\n");
    const CgroupMembers members = cgroup_members(root, "/cg/memory/a");
    EXPECT_THAT(members.pids, ElementsAre(10, 20, 30, 40));
    EXPECT_EQ(members.cgroups, 3U);
    EXPECT_EQ(members.foreign, 0U);
}

// The kernel prints 0 for a process of another pid namespace.
TEST_F(Cgroup, ForeignProcessesAreCounted) {
    group("cg/memory/a", "0\n0\n10\n");
    const CgroupMembers members = cgroup_members(root, "/cg/memory/a");
    EXPECT_THAT(members.pids, ElementsAre(10));
    EXPECT_EQ(members.foreign, 2U);
}

// Containers come and go while the tree is walked.
TEST_F(Cgroup, VanishedGroupBelowIsNoError) {
    group("cg/memory/a", "10\n");
    dir.mkdir("cg/memory/a/gone"); // its cgroup.procs does not exist any more
    EXPECT_THAT(cgroup_members(root, "/cg/memory/a").pids, ElementsAre(10));
    EXPECT_THROW((void)cgroup_members(root, "/cg/memory/a/gone"), SystemError);
}

// What the kernel says when a group goes away while its list is opened or read.
TEST_F(Cgroup, GroupBelowThatVanishesMeanwhile) {
    group("cg/memory/a", "10\n");
    group("cg/memory/a/gone", "20\n");
    group("cg/memory/a/stays", "30\n");
    no_device = "/a/gone/cgroup.procs";
    const CgroupMembers members = cgroup_members(root, "/cg/memory/a");
    EXPECT_THROW((void)cgroup_members(root, "/cg/memory/a/gone"), SystemError);
    no_device = "";
    EXPECT_THAT(members.pids, ElementsAre(10, 30));
    EXPECT_EQ(members.cgroups, 2U);
}

TEST_F(Cgroup, OtherLinesAreIgnored) {
    group("cg/memory/a", "10\nx\n-5\n99999999999\n\n11");
    EXPECT_THAT(cgroup_members(root, "/cg/memory/a").pids, ElementsAre(10, 11));
}

} // namespace

} // namespace upm::tool::cli
