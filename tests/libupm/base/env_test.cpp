// SPDX-License-Identifier: MIT
#include "libupm/base/env.hpp"

#include "tests/support/support.hpp"

#include <climits>
#include <cstdlib>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace upm::test {

namespace {

class Env : public testing::Test {
  protected:
    void SetUp() override {
        for (const env::Variable *const variable : env::kAll)
            ::unsetenv(variable->name);
    }
    void TearDown() override { SetUp(); }
    static void set(const env::Variable &variable, const char *value) {
        ::setenv(variable.name, value, 1);
    }
};

TEST_F(Env, UnsetGivesTheDefault) {
    EXPECT_EQ(env::get(env::backend), env::Backend::kAuto);
    EXPECT_EQ(env::get(env::min_bytes), 64U << 10);
    EXPECT_EQ(env::get(env::idle_ms), 100U);
    EXPECT_EQ(env::get(env::scope), env::Scope::kLoads);
    EXPECT_STREQ(env::get(env::cuda_driver), "libcuda.so.1");
    EXPECT_FALSE(env::get(env::verbose));
    std::uint8_t key[16];
    EXPECT_EQ(env::get(env::domain, key), env::KeyState::kUnset);
}

TEST_F(Env, EmptyIsUnset) {
    for (const env::Variable *const variable : env::kAll)
        set(*variable, "");
    testing::internal::CaptureStderr();
    env::report_all();
    EXPECT_EQ(env::get(env::trigger), env::Trigger::kIdle);
    EXPECT_EQ(env::get(env::min_bytes), 64U << 10);
    EXPECT_STREQ(env::get(env::cuda_driver), "libcuda.so.1");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(Env, Flags) {
    for (const char *off : {"", "0", "no", "off", "false", "ja"}) {
        set(env::verbose, off);
        EXPECT_FALSE(env::get(env::verbose)) << off;
    }
    for (const char *on : {"1", "yes", "on", "true"}) {
        set(env::verbose, on);
        EXPECT_TRUE(env::get(env::verbose)) << on;
    }
}

TEST_F(Env, Choices) {
    set(env::trigger, "manual");
    EXPECT_EQ(env::get(env::trigger), env::Trigger::kManual);
    set(env::trigger, "signal");
    EXPECT_EQ(env::get(env::trigger), env::Trigger::kSignal);
    set(env::backend, "ksm");
    EXPECT_EQ(env::get(env::backend), env::Backend::kKsm);
    set(env::cuda_unproven, "write");
    EXPECT_EQ(env::get(env::cuda_unproven), env::Use::kWrite);
}

TEST_F(Env, NumbersOutOfRangeAreTheNearest) {
    set(env::min_bytes, "1");
    EXPECT_EQ(env::get(env::min_bytes), 4096U);
    set(env::idle_ms, "0");
    EXPECT_EQ(env::get(env::idle_ms), 1U);
    set(env::idle_ms, "18446744073709551615");
    EXPECT_EQ(env::get(env::idle_ms), 3'600'000U);
    set(env::min_bytes, "2M");
    EXPECT_EQ(env::get(env::min_bytes), 2U << 20);
}

TEST_F(Env, Bytes) {
    std::uint64_t bytes = 0;
    for (const auto &[text, wanted] : {std::pair{"0", 0UL},
                                       {"4096", 4096UL},
                                       {"64K", 65536UL},
                                       {"64k", 65536UL},
                                       {"3m", 3UL << 20},
                                       {"2G", 2UL << 30},
                                       {"1T", 1UL << 40}}) {
        EXPECT_TRUE(env::parse_bytes(text, bytes)) << text;
        EXPECT_EQ(bytes, wanted) << text;
    }
    for (const char *bad : {"", "K", "64KB", "-1", "+1", "1.5M", " 64", "64 ", "0x10",
                            "99999999999999999999", "9999999999999G"})
        EXPECT_FALSE(env::parse_bytes(bad, bytes)) << bad;
}

// What a bad value is, what is said of it, and what is used.
struct Bad {
    const char *label;
    const env::Variable *variable;
    const char *value;
    const char *said; // after "upm[PID]: "
};

class BadValue : public Env, public testing::WithParamInterface<Bad> {};

// Each of these tests is a process of its own, so it sees the first report.
TEST_P(BadValue, IsReportedOnce) {
    const Bad &bad = GetParam();
    set(*bad.variable, bad.value);
    testing::internal::CaptureStderr();
    env::report_all();
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "upm[" + std::to_string(::getpid()) + "]: " + bad.said + "\n");
    testing::internal::CaptureStderr();
    env::report_all();
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

INSTANTIATE_TEST_SUITE_P(
    Each, BadValue,
    testing::Values(
        Bad{"Word", &env::trigger, "never",
            "UPM_TRIGGER=never is not idle, manual or signal; using idle"},
        Bad{"Backend", &env::backend, "kmodd",
            "UPM_BACKEND=kmodd is not auto, kmod, store, ksm or none; using none"},
        Bad{"Flag", &env::verbose, "ja", "UPM_VERBOSE=ja is not 0 or 1; using 0"},
        Bad{"Bytes", &env::min_bytes, "much",
            "UPM_MIN_BYTES=much is not a number of bytes (K, M, G, T: powers of 1024) from 4K to "
            "64T; using 64K"},
        Bad{"Small", &env::min_bytes, "1",
            "UPM_MIN_BYTES=1 is not a number of bytes (K, M, G, T: powers of 1024) from 4K to "
            "64T; using 4K"},
        Bad{"Number", &env::idle_ms, "1s",
            "UPM_IDLE_MS=1s is not a number from 1 to 3600000; using 100"},
        Bad{"Cuda", &env::cuda_learn, "x",
            "UPM_CUDA_LEARN=x is not a number from 0 to 1000000; using 0"},
        Bad{"Secret", &env::domain, "00ff10abcdef0123456789abcdef010",
            "UPM_DOMAIN=(a secret) is not a key of 32 hex digits, but has 31 characters; nothing "
            "is merged"},
        Bad{"KeyFile", &env::domain, "/nowhere/key",
            "UPM_DOMAIN=/nowhere/key is not a file that can be read and holds a key of 32 hex "
            "digits; nothing is merged"},
        Bad{"Control", &env::trigger, "\x1b[2Jx\ny",
            "UPM_TRIGGER=?[2Jx?y is not idle, manual or signal; using idle"}),
    [](const auto &test) { return test.param.label; });

TEST_F(Env, LongValuesAreCut) {
    const std::string value(1000, 'x');
    set(env::trigger, value.c_str());
    testing::internal::CaptureStderr();
    EXPECT_EQ(env::get(env::trigger), env::Trigger::kIdle);
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_NE(said.find(std::string(64, 'x') + "... is not"), std::string::npos) << said;
}

// The caller of a setuid program chooses its environment, and must not steer it; not even
// what it prints.
TEST_F(Env, IsIgnoredBySetuidPrograms) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root";
    const TempDir dir;
    ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
    struct statvfs place {};
    ASSERT_EQ(::statvfs(dir.path().c_str(), &place), 0);
    if ((place.f_flag & (ST_NOSUID | ST_NOEXEC)) != 0)
        GTEST_SKIP() << dir.path() << " is mounted nosuid or noexec";
    dir.write("probe", read_file(UPM_ENV_PROBE), 0755);
    const std::vector<std::string> command = {"/usr/bin/setpriv", "--reuid=61234", "--clear-groups",
                                              dir.path() + "/probe"};
    const std::vector<std::string> environment = {"UPM_TRIGGER=never", "UPM_VERBOSE=1"};
    const Finished plain = run(command, environment);
    EXPECT_EQ(plain.out, "verbose\n") << plain.err;
    EXPECT_NE(plain.err.find("UPM_TRIGGER=never is not"), std::string::npos);
    ASSERT_EQ(::chmod((dir.path() + "/probe").c_str(), 04755), 0);
    const Finished raised = run(command, environment);
    EXPECT_EQ(raised.out, "quiet\n");
    EXPECT_EQ(raised.err, "");
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

TEST_F(Env, KeyMayLieInAFile) {
    const TempDir dir;
    const std::string path = dir.path() + "/key";
    set(env::domain, path.c_str());
    std::uint8_t key[16] = {};
    for (const char *text :
         {"00ff10abcdef0123456789abcdef0102", "00ff10abcdef0123456789abcdef0102\n"}) {
        dir.write("key", text);
        ASSERT_EQ(env::get(env::domain, key), env::KeyState::kValid) << text;
        EXPECT_EQ(key[2], 0x10);
        EXPECT_EQ(key[15], 0x02);
    }
}

TEST_F(Env, WhatIsNoFileWithAKeyIsBad) {
    const TempDir dir;
    std::uint8_t key[16] = {};
    testing::internal::CaptureStderr();
    const std::string path = dir.path() + "/key";
    set(env::domain, path.c_str());
    EXPECT_EQ(env::get(env::domain, key), env::KeyState::kBad) << "not there";
    for (const char *text :
         {"", "\n", "00ff10abcdef0123456789abcdef010", "00ff10abcdef0123456789abcdef01022",
          "/etc/hostname", "00ff10abcdef0123456789abcdef0102\n\n"}) {
        dir.write("key", text);
        EXPECT_EQ(env::get(env::domain, key), env::KeyState::kBad) << text;
    }
    set(env::domain, dir.path().c_str());
    EXPECT_EQ(env::get(env::domain, key), env::KeyState::kBad) << "a folder";
    const std::string pipe = dir.path() + "/pipe";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0666), 0);
    set(env::domain, pipe.c_str());
    EXPECT_EQ(env::get(env::domain, key), env::KeyState::kBad) << "a pipe that nobody writes to";
    const std::string endless(2 * PATH_MAX, '/');
    set(env::domain, endless.c_str());
    EXPECT_EQ(env::get(env::domain, key), env::KeyState::kBad) << "a path that is too long";
    (void)testing::internal::GetCapturedStderr();
}

TEST_F(Env, TableIsComplete) {
    std::set<std::string> names;
    unsigned index = 0;
    for (const env::Variable *const variable : env::kAll) {
        EXPECT_TRUE(names.insert(variable->name).second) << variable->name;
        EXPECT_TRUE(std::string(variable->name).starts_with("UPM_"));
        EXPECT_FALSE(std::string(variable->meaning).empty());
        EXPECT_EQ(std::string(variable->meaning).find('\n'), std::string::npos);
        EXPECT_EQ(variable->index, index++);
    }
}

} // namespace

} // namespace upm::test
