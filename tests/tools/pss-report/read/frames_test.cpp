// SPDX-License-Identifier: MIT
//
// Merged pages by their frames, with made-up pagemap, kpagecount and kpageflags.
#include "tools/pss-report/read/frames.hpp"

#include "tests/tools/pss-report/root.hpp"

#include <cstring>
#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

constexpr std::uint64_t kPage = 4096;

std::string words(const std::vector<std::uint64_t> &values) {
    std::string bytes(values.size() * sizeof(std::uint64_t), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

class FramesTest : public testing::Test {
  protected:
    FramesTest() {
        // Frames: 1 anonymous; 2 UPM's, mapped 4 times; 3 KSM's, mapped twice; 4 of the
        // page cache; 5 UPM's, mapped once.
        root_.write("proc/kpagecount", words({0, 1, 4, 2, 9, 1}));
        root_.write("proc/kpageflags", words({0, kFrameAnon, 0, kFrameAnon | kFrameKsm,
                                              kFrameUptodate | kFrameLru, 0}));
        mapping_.start = 2 * kPage;
        mapping_.end = 8 * kPage;
        mapping_.flags.mixed = true;
    }
    bool count(const std::vector<std::uint64_t> &entries, Merged &merged) {
        std::vector<std::uint64_t> pagemap = {0, 0}; // two pages before the mapping
        pagemap.insert(pagemap.end(), entries.begin(), entries.end());
        root_.write("proc/7/pagemap", words(pagemap));
        const Proc proc{Root(root_.path())};
        Process process;
        process.pid = 7;
        return count_merged(Pagemap(proc, process, kPage), Frames(proc.root()), mapping_, kPage,
                            merged);
    }
    test::FakeRoot root_;
    MeasuredMapping mapping_;
};

constexpr std::uint64_t present(std::uint64_t frame) {
    return kPagePresent | frame;
}

TEST_F(FramesTest, MergedPagesAreCountedByWhatTheirFramesAre) {
    Merged merged;
    ASSERT_TRUE(count({present(1), present(2), present(3), present(4), present(5), 0}, merged));
    EXPECT_EQ(merged.upm, 2 * kPage);
    EXPECT_EQ(merged.upm_saved, kPage * 3 / 4);
    EXPECT_EQ(merged.ksm, kPage);
    EXPECT_EQ(merged.ksm_saved, kPage / 2);
}

// Drivers' pages look the same; only mappings that UPM marks are UPM's.
TEST_F(FramesTest, OnlyMarkedMappingsHoldPagesOfTheModule) {
    mapping_.flags.mixed = false;
    Merged merged;
    ASSERT_TRUE(count({present(2), present(3), 0, 0, 0, 0}, merged));
    EXPECT_EQ(merged.upm, 0U);
    EXPECT_EQ(merged.ksm, kPage);
}

TEST_F(FramesTest, HiddenFramesAreNoAnswer) {
    Merged merged;
    EXPECT_FALSE(count({present(0), 0, 0, 0, 0, 0}, merged));
}

TEST_F(FramesTest, AProcessThatEndsGivesWhatWasThere) {
    Merged merged;
    ASSERT_TRUE(count({present(2)}, merged));
    EXPECT_EQ(merged.upm, kPage);
}

TEST_F(FramesTest, FramesOutOfRangeAreNothing) {
    Merged merged;
    ASSERT_TRUE(count({present(1000000), 0, 0, 0, 0, 0}, merged));
    EXPECT_EQ(merged.upm_saved, 0U);
}

} // namespace

} // namespace upm::tool::pss
