// SPDX-License-Identifier: MIT
//
// Which pages stand for a window, and which segment they choose.
#include "libupm/store/sample.hpp"

#include "libupm/base/system.hpp"
#include "tests/libupm/store/fixture.hpp"

#include <algorithm>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

using store::Place;
using store::Sample;

class StoreSample : public testing::Test {
  protected:
    static constexpr std::size_t kPages = 1000;
    static constexpr std::size_t kNear = 64;

    StoreSample() : content_(kPages), room_(Sample::kRoom / page_size()) {
        fill_pattern(content_, 3);
    }
    ~StoreSample() override { ::close(fd_); }

    Sample take() {
        dir_.write("file", {content_.data(), content_.size()});
        ::close(fd_);
        fd_ = ::open((dir_.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC);
        Sample sample;
        any_ = sample.take(fd_, 0, content_.size(), reinterpret_cast<std::byte *>(room_.data()), 1);
        return sample;
    }
    // Places of all hashes, in a segment that begins `before` pages in front of the window.
    static std::vector<Place> places_in(const Sample &sample, std::uint32_t segment,
                                        const std::vector<std::uint32_t> &pages,
                                        std::uint32_t before) {
        std::vector<Place> places(sample.hashes().size());
        for (std::size_t i = 0; i < pages.size(); ++i)
            places[i * Sample::kCandidates] = {.segment = segment, .page = pages[i] + before};
        return places;
    }
    // Of a window of kPages pages, as sample.cpp says.
    static std::vector<std::uint32_t> pages() {
        std::vector<std::uint32_t> pages;
        for (std::uint32_t i = 1; i <= 8; ++i)
            pages.push_back(static_cast<std::uint32_t>(kNear + (kPages - kNear - 1) * i / 8));
        for (std::uint32_t i = 0; i < 8; ++i)
            pages.push_back(i);
        return pages;
    }

    Pages content_;
    Pages room_;
    TempDir dir_;
    int fd_ = -1;
    bool any_ = false;
};

TEST_F(StoreSample, FilesThatBeginAlikeAreNotAlike) {
    const Sample one = take();
    content_.page(kPages - 1)[5] ^= 1;
    const Sample other = take();
    EXPECT_NE(one.likeness(), other.likeness());
    content_.page(kPages - 1)[5] ^= 1;
    EXPECT_EQ(one.likeness(), take().likeness());
}

TEST_F(StoreSample, ZerosStandForNothing) {
    content_.fill(0);
    (void)take();
    EXPECT_FALSE(any_);
    content_.page(kPages - 1)[5] = 1;
    EXPECT_EQ(take().hashes().size(), Sample::kCandidates);
    EXPECT_TRUE(any_);
}

TEST_F(StoreSample, TheSegmentWithMostOfThemIsTaken) {
    const Sample sample = take();
    std::vector<Place> places = places_in(sample, 1, pages(), 5);
    for (std::size_t i = 0; i < 8; ++i) // the beginning is in another one, too, and told first
        std::swap(places[(8 + i) * Sample::kCandidates], places[(8 + i) * Sample::kCandidates + 1]);
    for (std::uint32_t i = 0; i < 8; ++i)
        places[(8 + i) * Sample::kCandidates] = {.segment = 2, .page = i};
    const Sample::Candidate best = sample.choose(places, store::kUnknown);
    EXPECT_EQ(best.first, (Place{.segment = 1, .page = 5}));
    EXPECT_EQ(best.votes, 16U);
    EXPECT_TRUE(sample.convinces(best, kPages + 5));
    const Sample::Candidate second = sample.choose(places, 1);
    EXPECT_EQ(second.first, (Place{.segment = 2, .page = 0}));
    EXPECT_FALSE(sample.convinces(second, kPages)) << "it only begins alike";
    EXPECT_TRUE(sample.convinces(second, 32)) << "all of it that there is";
}

TEST_F(StoreSample, ASegmentThatBeginsBehindTheWindowIsNone) {
    const Sample sample = take();
    std::vector<Place> places(sample.hashes().size());
    places[Sample::kCandidates * 15] = {.segment = 1, .page = 3}; // page 7 of the window
    EXPECT_EQ(sample.choose(places, store::kUnknown).votes, 0U);
}

} // namespace

} // namespace upm::test
