// SPDX-License-Identifier: MIT
//
// How long a load may wait, and how much of a stream it asks about.
#include "libupm/store/pace.hpp"

#include <gtest/gtest.h>

namespace upm::test {

namespace {

using store::Luck;
using store::Pace;
using store::Patience;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::size_t kMib = 1UL << 20U;

TEST(Pace, WaitsAreBoundedTogether) {
    Pace pace; // of a machine that is not crowded
    EXPECT_EQ(pace.making_ms(), 10);
    pace.spent(4 * kMs);
    EXPECT_EQ(pace.making_ms(), 6);
    pace.spent(6 * kMs);
    EXPECT_EQ(pace.making_ms(), 0);
    EXPECT_TRUE(pace.may_ask());
    pace.spent(2 * kMs);
    EXPECT_FALSE(pace.may_ask());
    EXPECT_LE(12 + pace.answer_ms(), 20) << "no load is later than that";
}

TEST(Pace, WhatIsWonCanBeSpent) {
    Pace pace;
    pace.read(kMs / 10, true); // a piece of 256 KiB
    pace.read(kMs / 50, false);
    pace.spent(10 * kMs);
    pace.won(16 * kMib);
    EXPECT_EQ(pace.making_ms(), 4) << "three quarters of 64 times 0.1 ms";
}

TEST(Patience, EachFailureDoublesThePause) {
    Patience patience(1'000);
    EXPECT_TRUE(patience.good());
    patience.failed();
    EXPECT_FALSE(patience.good());
    patience.answered();
    EXPECT_FALSE(patience.good()) << "the pause is to be kept";
}

// A reader of 64 GiB that shares with nobody asks for some dozens of windows.
TEST(Luck, AStreamIsHardlyAskedAbout) {
    Luck luck;
    EXPECT_FALSE(luck.skips(16 * kMib)) << "it has had no bad luck yet";
    luck.alone();
    std::size_t asked = 0;
    for (std::size_t done = 0; done < 65'536 * kMib; done += 16 * kMib) {
        if (luck.skips(16 * kMib))
            continue;
        ++asked;
        luck.alone();
    }
    EXPECT_GE(asked, 10U) << "but now and then";
    EXPECT_LE(asked, 25U);
    luck.shared();
    EXPECT_FALSE(luck.skips(16 * kMib));
}

TEST(Luck, SmallLoadsAreSkippedWhole) {
    Luck luck;
    EXPECT_FALSE(luck.skips_all(kMib));
    luck.alone();
    std::size_t skipped = 0;
    while (luck.skips_all(kMib))
        ++skipped;
    EXPECT_EQ(skipped, 64U);
    EXPECT_FALSE(luck.skips_all(kMib)) << "nothing is counted twice";
}

} // namespace

} // namespace upm::test
