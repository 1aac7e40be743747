// SPDX-License-Identifier: MIT
#include "tools/common/key.hpp"

#include <gtest/gtest.h>
#include <string>

namespace upm::test {

namespace {

TEST(Key, IsOf32HexDigits) {
    EXPECT_TRUE(tool::is_key(tool::fresh_key()));
    EXPECT_NE(tool::fresh_key(), tool::fresh_key());
    EXPECT_FALSE(tool::is_key(std::string(31, 'a')));
    EXPECT_FALSE(tool::is_key(std::string(32, 'g')));
}

TEST(Hook, IsKnownByItsName) {
    EXPECT_EQ(tool::kHookName, "libupm-preload.so");
    EXPECT_TRUE(tool::is_hook(tool::kHookInside));
    EXPECT_TRUE(tool::is_hook("/a/libupm-preload.so/libupm-preload.so"));
    for (const char *other : {"", "libupm-preload.so", "/a/other-libupm-preload.so",
                              "/libupm-preload.so.bak", "/libupm-preload.so/a"})
        EXPECT_FALSE(tool::is_hook(other)) << other;
}

} // namespace

} // namespace upm::test
