// SPDX-License-Identifier: MIT
//
// How long a load may wait, and how much of a stream it asks about.
#include "libupm/store/pace.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <random>
#include <vector>

namespace upm::test {

namespace {

using store::Luck;
using store::Pace;
using store::Patience;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::size_t kMib = 1UL << 20U;

// By what is left of the time for a segment: 10 ms.
int late_ms(Pace &pace) {
    return 10 - pace.making_ms();
}

TEST(Pace, WaitsAreBoundedTogether) {
    Pace pace; // of a machine that is not crowded
    EXPECT_EQ(pace.making_ms(), 10);
    EXPECT_EQ(pace.answer_ms(), 8);
    pace.spent(4 * kMs);
    EXPECT_EQ(pace.making_ms(), 6);
    pace.spent(8 * kMs);
    EXPECT_EQ(pace.making_ms(), 0) << "a segment is taken if it is there";
    EXPECT_EQ(pace.answer_ms(), 4);
    pace.spent(4 * kMs);
    EXPECT_EQ(pace.answer_ms(), 0);
    EXPECT_TRUE(pace.may_ask()) << "for what may be there when it is needed";
    pace.spent(2 * kMs);
    EXPECT_FALSE(pace.may_ask());
}

// Whatever the broker is late with, all that a load may wait for is less than 20 ms.
TEST(Pace, NoLoadIsLaterThanThat) {
    constexpr std::uint64_t kAsking = kMs / 2;
    for (const int which : {0, 1, 2}) {
        Pace pace;
        std::uint64_t late = 0;
        const auto spend = [&](std::uint64_t ns) {
            pace.spent(ns);
            late += ns;
        };
        for (int window = 0; window < 128; ++window) {
            if (pace.may_ask())
                spend(kAsking);
            if (which != 1)
                spend(static_cast<std::uint64_t>(pace.answer_ms()) * kMs);
            if (which != 0)
                spend(static_cast<std::uint64_t>(pace.making_ms()) * kMs);
        }
        EXPECT_LT(late, 20 * kMs) << which;
        EXPECT_FALSE(pace.may_ask());
    }
}

// However wrong it goes with what a plain read would take: a broker that is always as late as it
// may be is not waited for longer than that beyond what the load has saved.
TEST(Pace, AllWaitsTogetherAreBounded) {
    constexpr std::uint64_t kSaved = kMs * 8 / 100; // with each piece
    for (unsigned round = 0; round < 200; ++round) {
        std::mt19937 random(round);
        Pace pace;
        pace.read(kMs / 10, true);
        pace.read(kMs / 50, false);
        std::uint64_t waited = 0;
        std::uint64_t saved = 0;
        const auto wait = [&](int ms) {
            waited += static_cast<std::uint64_t>(ms) * kMs;
            pace.spent(static_cast<std::uint64_t>(ms) * kMs);
        };
        for (int window = 0; window < 128; ++window) {
            if (pace.may_ask())
                wait(random() % 2 == 0 ? pace.answer_ms() : pace.making_ms());
            // It seems that others have the processors for most of the time.
            const std::uint64_t ms = random() % 10;
            pace.worked(ms * kMs, ms * kMs / 4);
            if (random() % 4 != 0) {
                pace.won(16 * kMib);
                saved += 64 * kSaved;
            }
        }
        EXPECT_LE(waited, 20 * kMs + saved) << round;
    }
}

TEST(Pace, WhatIsWonCanBeSpent) {
    Pace pace;
    pace.read(kMs / 10, true); // a piece of 256 KiB
    pace.read(kMs / 50, false);
    pace.spent(10 * kMs);
    pace.won(16 * kMib);
    EXPECT_EQ(pace.making_ms(), 4) << "three quarters of 64 times 0.1 ms";
}

// A plain read finds memory, too: so what that takes counts, wherever it is done.
TEST(Pace, FindingMemoryIsAPartOfAPlainRead) {
    Pace pace;
    pace.prepared(kMs * 6 / 100);
    pace.read(kMs * 4 / 100, true);
    pace.read(kMs / 50, false);
    pace.spent(10 * kMs);
    pace.won(16 * kMib);
    EXPECT_EQ(pace.making_ms(), 4) << "as if one read had taken 0.1 ms";
}

// But not without end: what was reckoned for long is wrong by much.
TEST(Pace, LittleOfItIsKept) {
    Pace pace;
    pace.read(kMs / 10, true);
    for (int window = 0; window < 128; ++window)
        pace.won(16 * kMib);
    EXPECT_EQ(pace.making_ms(), 50);
}

// Others that run on the same processors make a plain read longer, as they do with the load's
// own work; of which a part falls into what is compared, and no read shows it.
TEST(Pace, OthersRunMeanwhile) {
    Pace pace;
    pace.read(kMs / 10, true);
    pace.worked(8 * kMs, 4 * kMs);
    pace.won(16 * kMib);
    EXPECT_EQ(pace.making_ms(), 11) << "twice 4.8 ms were won";
    Pace crowded;
    crowded.read(kMs / 10, true);
    for (int window = 0; window < 128; ++window) {
        crowded.worked(16 * kMs, 4 * kMs); // of 4.8 that a plain read would take
        crowded.won(16 * kMib);
        EXPECT_TRUE(crowded.may_ask()) << window;
    }
    for (int window = 0; window < 128; ++window) {
        crowded.worked(640 * kMs, 4 * kMs); // no plain read is reckoned to take so long
        crowded.won(16 * kMib);
    }
    EXPECT_FALSE(crowded.may_ask());
}

// Where memory is slow to come, it would be for a plain read as well; one that was seen says so.
TEST(Pace, PlainReadsSayWhatTheyTake) {
    Pace pace;
    pace.read(kMs / 10, true);
    for (int window = 0; window < 4; ++window) {
        pace.spent(10 * kMs);
        pace.won(16 * kMib);
    }
    EXPECT_FALSE(pace.may_ask()) << "5.2 ms later with each";
    pace.plain(kMib / 2, 5 * kMs);
    EXPECT_FALSE(pace.may_ask()) << "of half a megabyte nothing is known";
    pace.plain(16 * kMib, 160 * kMs); // ten times as long
    EXPECT_TRUE(pace.may_ask()) << "it is reckoned to be four times as long";
    EXPECT_EQ(late_ms(pace), 0) << "which is nothing to be spent";
    pace.spent(10 * kMs);
    pace.won(16 * kMib);
    EXPECT_EQ(late_ms(pace), -9) << "and 19.2 from now on";
}

// What took no longer than was reckoned changes nothing.
TEST(Pace, LateStaysLate) {
    Pace pace;
    pace.read(kMs / 10, true);
    pace.spent(30 * kMs);
    pace.won(16 * kMib);
    pace.plain(16 * kMib, 4 * kMs);
    EXPECT_FALSE(pace.may_ask());
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

// A file that is read again and again: windows of all its parts are asked about.
TEST(Luck, QuestionsWanderThroughAFile) {
    constexpr std::size_t kParts = 8;
    for (const std::size_t file : {128U, 1024U, 4096U}) { // MiB
        Luck luck;
        luck.alone();
        std::vector<unsigned> asked(kParts);
        std::size_t at = 0;
        for (unsigned questions = 0; questions < 10 * kParts; at += 16) {
            if (luck.skips(16 * kMib))
                continue;
            ++asked[at % file * kParts / file];
            ++questions;
            luck.alone();
        }
        EXPECT_GE(*std::min_element(asked.begin(), asked.end()), 2U) << file;
    }
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
