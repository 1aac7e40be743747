// SPDX-License-Identifier: MIT
#include "libupm/base/env.hpp"

#include <cstdlib>
#include <gtest/gtest.h>
#include <set>
#include <string>

namespace upm::test {

namespace {

class Env : public testing::Test {
  protected:
    void TearDown() override { ::unsetenv(env::verbose.name); }
    static void set(const char *value) { ::setenv(env::verbose.name, value, 1); }
};

TEST_F(Env, UnsetGivesTheDefault) {
    ::unsetenv(env::backend.name);
    EXPECT_EQ(env::text(env::backend), "auto");
    EXPECT_FALSE(env::flag(env::verbose));
}

TEST_F(Env, FlagsAreOffForEmptyAndZero) {
    for (const char *off : {"", "0"}) {
        set(off);
        EXPECT_FALSE(env::flag(env::verbose)) << off;
    }
    for (const char *on : {"1", "yes", "00", "false"}) {
        set(on);
        EXPECT_TRUE(env::flag(env::verbose)) << on;
    }
}

TEST_F(Env, KeyTakesBothCases) {
    std::uint8_t key[16] = {};
    ASSERT_TRUE(env::parse_key("00ff10AbcdEF0123456789abcdef0102", key));
    const std::uint8_t wanted[16] = {0x00, 0xff, 0x10, 0xab, 0xcd, 0xef, 0x01, 0x23,
                                     0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x02};
    for (int i = 0; i < 16; ++i)
        EXPECT_EQ(key[i], wanted[i]) << i;
}

TEST_F(Env, KeyRefusesAllElse) {
    std::uint8_t key[16] = {};
    EXPECT_FALSE(env::parse_key("", key));
    EXPECT_FALSE(env::parse_key("00ff10abcdef0123456789abcdef010", key));
    EXPECT_FALSE(env::parse_key("00ff10abcdef0123456789abcdef01020", key));
    EXPECT_FALSE(env::parse_key("00ff10abcdef0123456789abcdef010g", key));
    EXPECT_FALSE(env::parse_key(" 0ff10abcdef0123456789abcdef0102", key));
    EXPECT_FALSE(env::parse_key("00ff10abcdef0123456789abcdef01\n2", key));
}

TEST_F(Env, TableIsComplete) {
    std::set<std::string> names;
    for (const env::Variable &variable : env::kAll) {
        EXPECT_TRUE(names.insert(variable.name).second) << variable.name;
        EXPECT_TRUE(std::string(variable.name).starts_with("UPM_"));
        EXPECT_FALSE(std::string(variable.meaning).empty());
        EXPECT_EQ(std::string(variable.meaning).find('\n'), std::string::npos);
    }
}

} // namespace

} // namespace upm::test
