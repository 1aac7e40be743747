// SPDX-License-Identifier: MIT
//
// When loads count as a stream, and what of a block is filled.
#include "preload/short_lived.hpp"

#include "libupm/base/wander.hpp"
#include "preload/blocks.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

namespace upm::test {

namespace {

using hook::Filled;
using hook::ShortLived;

constexpr std::size_t kMib = 1UL << 20U;

// What a program does to its blocks.
struct Loader {
    ShortLived loads;
    std::vector<std::unique_ptr<ShortLived::Life>> blocks = {};

    bool load(std::size_t bytes = 16 * kMib) {
        blocks.push_back(std::make_unique<ShortLived::Life>());
        return loads.loads(*blocks.back(), bytes);
    }
    void free(std::size_t index = 0) {
        loads.frees(*blocks[index]);
        blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(index));
    }
    // Loads and frees one after the other until that is a stream. Returns how many it took.
    int stream(std::size_t bytes = 16 * kMib) {
        int count = 0;
        for (; !loads.is_stream() && count < 1000; ++count) {
            load(bytes);
            free(blocks.size() - 1);
        }
        return count;
    }
};

TEST(HookShortLived, TwoLargeBlocksThatPassMakeAStream) {
    EXPECT_EQ(Loader().stream(), 2);
    EXPECT_EQ(Loader().stream(4096 * kMib), 2) << "one is a file that is looked through";
    EXPECT_EQ(Loader().stream(kMib), 15);
}

TEST(HookShortLived, WhatIsMuchLargerIsNoPartOfAStream) {
    Loader program;
    EXPECT_FALSE(program.loads.is_part(kMib));
    program.stream(kMib);
    EXPECT_TRUE(program.loads.is_part(1));
    EXPECT_TRUE(program.loads.is_part(3 * kMib));
    EXPECT_FALSE(program.loads.is_part(4 * kMib));
    // Unless it passes as well.
    program.load(100 * kMib);
    program.free();
    EXPECT_TRUE(program.loads.is_stream());
    EXPECT_TRUE(program.loads.is_part(300 * kMib));
    // The next stream is another one.
    program.loads.end();
    program.stream(kMib);
    EXPECT_FALSE(program.loads.is_part(4 * kMib));
}

TEST(HookShortLived, TheNextOneMayBeLoadedBeforeTheLastOneIsFreed) {
    Loader program;
    program.load();
    program.load();
    program.free();
    program.load();
    EXPECT_FALSE(program.loads.is_stream());
    program.free();
    EXPECT_TRUE(program.loads.is_stream());
}

TEST(HookShortLived, AModelAfterTheOtherIsNoStream) {
    for (const bool backwards : {false, true}) {
        Loader program;
        for (int model = 0; model < 10; ++model) {
            for (int tensor = 0; tensor < 3; ++tensor)
                program.load(100 * kMib);
            while (!program.blocks.empty())
                program.free(backwards ? program.blocks.size() - 1 : 0);
        }
        EXPECT_FALSE(program.loads.is_stream()) << backwards;
    }
}

TEST(HookShortLived, ABlockIsFilledByManyReads) {
    Loader program;
    ShortLived::Life life;
    for (int i = 0; i < 100; ++i)
        program.loads.loads(life, kMib);
    program.loads.frees(life);
    EXPECT_FALSE(program.loads.is_stream()) << "that was one block";
    EXPECT_EQ(program.stream(), 1);
}

TEST(HookShortLived, WhatStaysInBetweenBeginsAnew) {
    Loader program;
    for (int i = 0; i < 100; ++i) {
        program.load(); // stays
        program.load();
        program.free(program.blocks.size() - 1);
    }
    EXPECT_FALSE(program.loads.is_stream());
}

TEST(HookShortLived, WhatOthersShareIsNoStream) {
    Loader program;
    for (int i = 0; i < 100; ++i) {
        program.loads.shares();
        program.load();
        program.free();
    }
    EXPECT_FALSE(program.loads.is_stream());
}

TEST(HookShortLived, AStreamEndsWithMoreBlocksThatStayEachTime) {
    Loader program;
    for (std::uint32_t needed = 1; needed < 4 * ShortLived::kMostStaying; needed *= 2) {
        program.blocks.clear();
        program.stream();
        std::uint32_t stayed = 0; // when it ends
        for (; program.loads.is_stream() && stayed < 1000; ++stayed) {
            const bool ended = program.load();
            EXPECT_EQ(ended, !program.loads.is_stream());
        }
        EXPECT_EQ(stayed, std::min(needed, ShortLived::kMostStaying) + 2); // two are young
    }
}

TEST(HookShortLived, OthersAreAskedMoreAndMoreSeldom) {
    Loader program;
    program.stream();
    std::uint64_t bytes = 0;
    for (std::uint64_t pause = ShortLived::kFirstPause; pause <= ShortLived::kMostPause;
         pause *= 2) {
        for (bytes = kMib; !program.loads.asks(kMib); bytes += kMib)
            ASSERT_LT(bytes, 2 * pause);
        EXPECT_LE(bytes, pause);
        EXPECT_GE(bytes, pause - pause / kMostShorter);
        program.loads.end(); // a vain hope does not make it begin anew
        program.stream();
    }
    program.loads.end();
    program.loads.shares();
    program.stream();
    for (bytes = kMib; !program.loads.asks(kMib); bytes += kMib) {
    }
    EXPECT_LE(bytes, ShortLived::kFirstPause);
}

// A file that is read again and again: each part of it is asked about, whatever its size is.
TEST(HookShortLived, QuestionsWanderThroughAFile) {
    constexpr std::uint64_t kParts = 8; // of a file, none of which may be left out
    for (const std::uint64_t file : {64U, 96U, 128U, 1000U, 1024U, 3072U, 4096U, 12'288U}) {
        Loader program;
        program.stream();
        std::vector<unsigned> asked(kParts);
        std::uint64_t at = 0; // MiB
        for (unsigned questions = 0; questions < 10 * kParts; ++at)
            if (program.loads.asks(kMib)) {
                ++asked[at % file * kParts / file];
                ++questions;
            }
        EXPECT_GE(*std::min_element(asked.begin(), asked.end()), 2U) << file;
    }
}

TEST(HookShortLived, WhatASeedKeepsIsNoStream) {
    Loader program;
    program.loads.never();
    EXPECT_EQ(program.stream(), 1000);
}

TEST(HookFilled, HoldsWhatWasReadInOneGo) {
    Filled filled;
    EXPECT_FALSE(filled.holds(0, 1));
    filled.add(32, 100);
    EXPECT_TRUE(filled.holds(32, 100));
    EXPECT_TRUE(filled.holds(50, 10));
    EXPECT_FALSE(filled.holds(31, 100));
    EXPECT_FALSE(filled.holds(33, 100));
    filled.add(132, 100); // behind it
    EXPECT_TRUE(filled.holds(32, 200));
    filled.add(0, 32); // before it
    EXPECT_TRUE(filled.holds(0, 232));
    filled.add(1000, 10); // elsewhere
    EXPECT_TRUE(filled.holds(0, 232));
    EXPECT_FALSE(filled.holds(1000, 10));
    filled.add(2000, 500); // larger
    EXPECT_TRUE(filled.holds(2000, 500));
    EXPECT_FALSE(filled.holds(0, 232)) << "it is forgotten, which costs a look";
    filled.clear();
    EXPECT_FALSE(filled.holds(2000, 1));
}

} // namespace

} // namespace upm::test
