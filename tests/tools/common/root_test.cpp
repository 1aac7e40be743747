// SPDX-License-Identifier: MIT
#include "tools/common/root.hpp"

#include "tests/support/support.hpp"

#include <cerrno>
#include <gtest/gtest.h>

namespace upm::tool {

namespace {

TEST(Root, Reads) {
    const test::TempDir dir;
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

TEST(Root, NumbersMayBeNegative) {
    const test::TempDir dir;
    dir.write("n", "-42\n");
    const Root root(dir.path());
    EXPECT_EQ(root.number("/n"), std::nullopt);
    EXPECT_EQ(root.number<std::int64_t>("/n"), -42);
}

TEST(Root, NamesOfAFolder) {
    const test::TempDir dir;
    dir.write("a/y", "");
    dir.mkdir("a/x");
    const Root root(dir.path());
    EXPECT_EQ(root.names("/a"), (std::vector<std::string>{"x", "y"}));
    EXPECT_TRUE(root.names("/none").empty());
    EXPECT_TRUE(root.names("/a/y").empty());
}

TEST(Root, OpenTellsWhy) {
    const test::TempDir dir;
    EXPECT_FALSE(Root(dir.path()).open("/none"));
    EXPECT_EQ(errno, ENOENT);
    EXPECT_TRUE(Root(dir.path()).open("/"));
}

} // namespace

} // namespace upm::tool
