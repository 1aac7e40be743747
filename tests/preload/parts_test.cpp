// SPDX-License-Identifier: MIT
//
// Parts of the hook that can be tried without preloading it.
#include "preload/history.hpp"
#include "preload/maps.hpp"
#include "preload/settings.hpp"
#include "tests/support/support.hpp"

#include <cstdlib>
#include <gtest/gtest.h>
#include <string>

namespace upm::test {

namespace {

using hook::History;

upm_counts counted(std::uint64_t merged, std::uint64_t already) {
    upm_counts counts{};
    counts.merged = merged;
    counts.already = already;
    counts.pages = merged + already;
    return counts;
}

constexpr std::uint64_t kSecond = 1'000'000'000;

TEST(HookHistory, NewMemoryIsDueAtOnce) {
    EXPECT_TRUE(History().due(0, false));
}

TEST(HookHistory, PausesDouble) {
    History history;
    std::uint64_t now = 0;
    for (std::uint64_t pause = kSecond; pause <= 8 * kSecond; pause *= 2) {
        history.add(counted(1, 99)); // something new each time
        history.finish(now, false);
        EXPECT_FALSE(history.due(now + pause - 1, false)) << pause;
        EXPECT_TRUE(history.due(now + pause, false)) << pause;
        now += pause;
    }
}

TEST(HookHistory, WhatKeepsBreakingIsGivenUpEvenIfForced) {
    History history;
    for (int pass = 0; pass < 3; ++pass) {
        EXPECT_FALSE(history.retired()) << pass;
        history.add(counted(20, 80)); // a fifth was written to again
        history.finish(0, false);
    }
    EXPECT_TRUE(history.retired());
    EXPECT_FALSE(history.due(1000 * kSecond, true));
}

TEST(HookHistory, FewBrokenPagesAreForgiven) {
    History history;
    for (int pass = 0; pass < 6; ++pass) {
        history.add(counted(5, 95));
        history.finish(0, false);
    }
    EXPECT_FALSE(history.retired());
}

TEST(HookHistory, WhatIsStableIsLeftAlone) {
    History history;
    history.add(counted(100, 0));
    history.finish(0, false);
    for (int pass = 0; pass < 2; ++pass) {
        EXPECT_TRUE(history.waits());
        history.add(counted(0, 100));
        history.finish(0, false);
    }
    EXPECT_FALSE(history.waits());
    EXPECT_FALSE(history.retired());
    EXPECT_TRUE(history.due(0, true)) << "somebody asked";
}

TEST(HookHistory, NothingIsAdvisedForEver) {
    History history;
    unsigned passes = 0;
    for (std::uint64_t now = 0; history.waits(); now += 1000 * kSecond, ++passes) {
        history.add(counted(1, 99));
        history.finish(now, false);
    }
    EXPECT_EQ(passes, History::kMaxPasses);
}

TEST(HookHistory, TheScannerNeedsToBeToldOnce) {
    History history;
    history.finish(0, true);
    EXPECT_FALSE(history.waits());
}

TEST(HookSettings, ParsesBytes) {
    std::size_t bytes = 0;
    EXPECT_TRUE(hook::parse_bytes("4096", bytes));
    EXPECT_EQ(bytes, 4096U);
    EXPECT_TRUE(hook::parse_bytes("64K", bytes));
    EXPECT_EQ(bytes, 65536U);
    EXPECT_TRUE(hook::parse_bytes("2G", bytes));
    EXPECT_EQ(bytes, 2UL << 30);
    for (const char *bad :
         {"", "K", "64KB", "-1", "1.5M", " 64", "99999999999999999999", "9999999999999G"})
        EXPECT_FALSE(hook::parse_bytes(bad, bytes)) << bad;
}

TEST(HookSettings, WhatIsNotUnderstoodIsTheDefault) {
    ::setenv("UPM_MIN_BYTES", "much", 1);
    ::setenv("UPM_TRIGGER", "never", 1);
    ::setenv("UPM_IDLE_MS", "0", 1);
    const hook::Settings settings = hook::read_settings();
    EXPECT_EQ(settings.min_bytes, 65536U);
    EXPECT_EQ(settings.trigger, hook::Trigger::kIdle);
    EXPECT_EQ(settings.idle_ns, 100'000'000U);
}

TEST(HookSettings, ABlockIsAPageAtLeast) {
    ::setenv("UPM_MIN_BYTES", "1", 1);
    EXPECT_EQ(hook::read_settings().min_bytes, 4096U);
}

TEST(HookMaps, ReadsEveryLine) {
    const TempDir dir;
    const std::string long_name(4000, 'n');
    std::string text = "7f00000000-7f00010000 rw-p 00000000 00:00 0 \n"
                       "7f00010000-7f00020000 r--s 00001000 fe:01 1234       /a b\n"
                       "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0      [stack]\n";
    for (int i = 0; i < 20; ++i) // lines that cross the ends of the buffer
        text += "1000-2000 r-xp 00000000 fe:01 7   /" + long_name + "\n";
    dir.write("maps", text);
    hook::MapsReader maps((dir.path() + "/maps").c_str());
    hook::Mapping mapping;
    ASSERT_TRUE(maps.next(mapping));
    EXPECT_EQ(mapping.start, 0x7f00000000U);
    EXPECT_EQ(mapping.end, 0x7f00010000U);
    EXPECT_TRUE(mapping.readable && mapping.writable && !mapping.shared && !mapping.file);
    EXPECT_EQ(mapping.name, "");
    ASSERT_TRUE(maps.next(mapping));
    EXPECT_TRUE(mapping.shared && mapping.file && !mapping.writable);
    EXPECT_EQ(mapping.name, "/a b");
    ASSERT_TRUE(maps.next(mapping));
    EXPECT_EQ(mapping.name, "[stack]");
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(maps.next(mapping)) << i;
        EXPECT_EQ(mapping.name.size(), long_name.size() + 1);
    }
    EXPECT_FALSE(maps.next(mapping));
}

TEST(HookMaps, NoFileIsNoLine) {
    hook::MapsReader maps("/nonexistent/maps");
    hook::Mapping mapping;
    EXPECT_FALSE(maps.next(mapping));
}

} // namespace

} // namespace upm::test
