// SPDX-License-Identifier: MIT
#include "tools/common/memory.hpp"

#include "tests/support/support.hpp"
#include "tools/common/errors.hpp"

#include <gtest/gtest.h>

namespace upm::test {

namespace {

tool::Memory memory_of(const char *text) {
    const TempDir dir;
    dir.mkdir("proc");
    dir.write("proc/meminfo", text);
    return tool::read_memory(tool::Root(dir.path()));
}

TEST(Memory, IsWhatTheKernelSays) {
    const tool::Memory memory = memory_of("MemTotal:       1000 kB\nMemFree:  7 kB\n"
                                          "MemAvailable:    200 kB\nSwapTotal: 5 kB\n");
    EXPECT_EQ(memory.total, 1'024'000U);
    EXPECT_EQ(memory.available, 204'800U);
    const tool::Memory here = tool::read_memory(tool::Root());
    EXPECT_GT(here.total, here.available);
    EXPECT_GT(here.available, 0U);
}

// Which the kernel counts a little differently.
TEST(Memory, ABrokerKeepsAnEighth) {
    constexpr double kEighth = 0.125;
    const auto total = static_cast<double>(tool::read_memory(tool::Root()).total);
    EXPECT_NEAR(static_cast<double>(tool::default_broker_limit()) / total, kEighth, kEighth / 10);
}

TEST(Memory, IsShortBelowThePercentage) {
    const tool::Memory memory = memory_of("MemTotal: 1000 kB\nMemAvailable: 200 kB\n");
    EXPECT_FALSE(tool::is_short(memory, 1));
    EXPECT_FALSE(tool::is_short(memory, 20));
    EXPECT_TRUE(tool::is_short(memory, 21));
    EXPECT_TRUE(tool::is_short(memory, 100));
}

// Sharing too early costs little; never sharing would be what nobody wants.
TEST(Memory, IsShortWhereNobodyCanSay) {
    EXPECT_TRUE(tool::is_short(memory_of("nothing known\n"), 1));
    EXPECT_TRUE(tool::is_short(memory_of("MemTotal: 1000 kB\nMemAvailable: much\n"), 1));
    EXPECT_THROW((void)tool::read_memory(tool::Root("/nowhere")), tool::SystemError);
}

} // namespace

} // namespace upm::test
