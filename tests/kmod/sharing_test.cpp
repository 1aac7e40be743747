// SPDX-License-Identifier: MIT
//
// The heart of it: bytes stay, equal pages of two processes get one frame, a
// write gives the writer a frame of its own, and the ruler (PSS) agrees.
#include "tests/kmod/support/actor.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

#include <sys/mman.h>

namespace upm::test {

namespace {

// UPM_SHARING_MAX of the module: references to one frame.
constexpr std::size_t kSharingMax = 256;

class Sharing : public KindTest {};
UPM_TEST_ALL_KINDS(Sharing);

class SharingBound : public KmodTest {};

// Random pages, equal pages, nearly equal pages and zeros: not one byte changes,
// neither by the first advise, which inserts, nor by the second, which merges.
TEST_P(Sharing, BytesStay) {
    const Pattern pattern = mixed();
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    for (Actor *actor : {&a, &b}) {
        const Advice advice = actor->advise();
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.counts.pages, pages());
        EXPECT_EQ(advice.done(), pages()) << "skipped " << advice.skipped_all();
        actor->check();
    }
    a.check();
}

// Without an advise nothing is shared: the comparison of frames can fail.
TEST_P(Sharing, NothingIsSharedWithoutAdvise) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    EXPECT_EQ(present_frames(a.frames()), pages());
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), 0U);
}

// Sharing means the same page frame in both page tables, page by page.
TEST_P(Sharing, FramesAreEqual) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    EXPECT_EQ(a.advise().counts.inserted, pages());
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), 0U);
    EXPECT_EQ(b.advise().counts.merged, pages());
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), pages());
    EXPECT_EQ(distinct_frames(a.frames()), pages());
}

// A shared frame never was a participant's: else who inserts a page chooses the
// frame that others will use (Flip Feng Shui).
TEST_P(Sharing, FramesAreFresh) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    const Frames before_a = a.frames();
    const Frames before_b = b.frames();
    a.advise();
    b.advise();
    for (Actor *actor : {&a, &b}) {
        EXPECT_EQ(common_frames(actor->frames(), before_a), 0U);
        EXPECT_EQ(common_frames(actor->frames(), before_b), 0U);
    }
}

// A page without a twin becomes copy-on-write too, so that the time of a write
// tells nothing about others (VUsion).
TEST_P(Sharing, PagesWithoutTwinAreMovedAsWell) {
    Actor a(kind(), {Content::kDistinct, fresh_seed()}, pages());
    const Frames before = a.frames();
    EXPECT_EQ(a.advise().counts.inserted, pages());
    EXPECT_EQ(common_frames(a.frames(), before), 0U);
}

// Equal pages inside one process share a frame as well.
TEST_P(Sharing, DuplicatesInsideOneProcess) {
    Actor a(kind(), {Content::kDuplicates, fresh_seed()}, pages());
    const Advice advice = a.advise();
    EXPECT_EQ(advice.counts.inserted, 1 + pages() / kSharingMax);
    EXPECT_EQ(advice.counts.merged, pages() - advice.counts.inserted);
    EXPECT_EQ(distinct_frames(a.frames()), advice.counts.inserted);
    a.check();
}

// How often a frame is mapped is bounded, so that no number of forks makes its count of
// references overflow. Further pages of the same content share another frame; all of
// them can be written to, and all frames are freed in the end (TearDown() looks).
TEST_F(SharingBound, ManyPagesOfOneContent) {
    constexpr std::size_t kMany = 1000;
    const Pattern pattern{Content::kDuplicates, fresh_seed()};
    Actor a(Kind::kAnonymous, pattern, kMany);
    Actor b(Kind::kAnonymous, pattern, kMany);
    std::map<std::uint64_t, std::size_t> mapped;
    for (Actor *actor : {&a, &b}) {
        EXPECT_EQ(actor->advise().done(), kMany);
        for (const std::uint64_t frame : actor->frames())
            mapped[frame]++;
    }
    EXPECT_GE(mapped.size(), 2 * kMany / kSharingMax);
    EXPECT_LE(mapped.size(), 2 * kMany / kSharingMax + 4);
    for (const auto &[frame, times] : mapped)
        EXPECT_LE(times, kSharingMax) << "frame " << frame;
    EXPECT_EQ(statistic("pages_shared"), mapped.size());
    // A frame that has room again is used again, or goes: none is lost.
    EXPECT_EQ(a.unmerge().counts.unmerged, kMany);
    EXPECT_EQ(a.advise().done(), kMany);
    for (std::size_t i = 0; i < kMany; i += 3)
        a.write(i, i);
    a.check();
    b.check();
}

// One byte of difference, the last of the page, keeps two pages apart.
TEST_P(Sharing, NearlyEqualPagesStayApart) {
    const Pattern pattern = mixed();
    Actor a(kind(), pattern, pages());
    a.advise();
    const Frames frames = a.frames();
    // By turns: random, the same, the same but for one word, zeros.
    for (std::size_t i = 0; i + 3 < pages(); i += 4) {
        EXPECT_EQ(frames[i + 1], frames[1]);
        EXPECT_NE(frames[i + 2], frames[1]);
    }
    EXPECT_EQ(distinct_frames(frames), pages() / 4 * 2 + 1 + (of_file(kind()) ? 1 : 0));
    a.check();
}

// The comparison sees each byte of a page. Behind a page that is known the index has another
// one; what follows here differs from that in one byte, so nothing but the comparison keeps it
// from being taken for it. It may not be inserted, so it stays.
TEST_F(SharingBound, EveryByteIsCompared) {
    constexpr std::size_t kAtOnce = 128; // pages that map the known one
    const std::uint64_t seed = fresh_seed();
    std::array<std::byte, kPage> known{};
    std::array<std::byte, kPage> next{};
    Pattern{Content::kDistinct, seed}.fill(0, known.data());
    Pattern{Content::kDistinct, seed}.fill(1, next.data());
    Actor keeper(Kind::kAnonymous, {Content::kDistinct, seed}, 2);
    ASSERT_EQ(keeper.advise().counts.inserted, 2U);
    const Knob full("domain_max_pages", 2);
    const Device upm;
    for (std::size_t from = 0; from < kPage; from += kAtOnce) {
        const Mapping pages(2 * kAtOnce * kPage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS);
        for (std::size_t i = 0; i < kAtOnce; i++) {
            std::memcpy(pages.page(2 * i), known.data(), kPage);
            std::memcpy(pages.page(2 * i + 1), next.data(), kPage);
            pages.page(2 * i + 1)[from + i] ^= std::byte{1};
        }
        const Advice advice = upm.advise(pages.base(), pages.len());
        EXPECT_EQ(advice.counts.merged, kAtOnce);
        EXPECT_EQ(advice.skipped(UPM_SKIP_LIMIT), kAtOnce);
        for (std::size_t i = 0; i < kAtOnce; i++) {
            next[from + i] ^= std::byte{1};
            EXPECT_EQ(std::memcmp(pages.page(2 * i + 1), next.data(), kPage), 0) << from + i;
            next[from + i] ^= std::byte{1};
        }
    }
}

// Zeros of anonymous memory need no frame at all; a page of a file is not
// dropped, since a fault would bring the file's page again.
TEST_P(Sharing, ZerosAreDropped) {
    Actor a(kind(), {Content::kZeros, fresh_seed()}, pages());
    const Advice advice = a.advise();
    if (of_file(kind())) {
        EXPECT_EQ(advice.counts.zero, 0U);
        EXPECT_EQ(distinct_frames(a.frames()), 1U);
    } else {
        // A huge page that is split may give its zeros up by itself (6.12).
        EXPECT_EQ(advice.counts.zero + advice.counts.already, pages());
        EXPECT_EQ(present_frames(a.frames()), 0U);
        EXPECT_EQ(a.usage().rss, 0U);
    }
    a.check();
    // The reads have mapped the kernel's zero page, or what was shared.
    EXPECT_EQ(a.advise().counts.already, pages());
    a.check();
}

// A write in one process gives that process a copy, and nobody else notices.
TEST_P(Sharing, WriteBreaksOne) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    a.advise();
    b.advise();
    ASSERT_EQ(equal_frames(a.frames(), b.frames()), pages());
    const Frames shared = b.frames();
    a.allow_writes();
    for (std::size_t i = 0; i < pages(); i += 3)
        a.write(i, i + 1);
    a.check();
    b.check();
    EXPECT_EQ(b.frames(), shared);
    const Frames frames = a.frames();
    for (std::size_t i = 0; i < pages(); i++)
        EXPECT_EQ(frames[i] == shared[i], i % 3 != 0) << "page " << i;
}

// Every page, and both sides one after the other: the frames end unused.
TEST_P(Sharing, WritesBreakAll) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    a.advise();
    b.advise();
    for (Actor *actor : {&a, &b}) {
        actor->allow_writes();
        for (std::size_t i = 0; i < pages(); i++)
            actor->write(i, actor == &a ? 7 : 8);
    }
    a.check();
    b.check();
    EXPECT_EQ(common_frames(a.frames(), b.frames()), 0U);
}

// What was written apart becomes one again by the next advise.
TEST_P(Sharing, EqualWritesMergeAgain) {
    if (of_file(kind()))
        GTEST_SKIP() << "private copies in a file mapping stay private";
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    a.advise();
    b.advise();
    for (Actor *actor : {&a, &b}) {
        actor->allow_writes();
        for (std::size_t i = 0; i < pages(); i += 2)
            actor->write(i, i);
    }
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), pages() / 2);
    EXPECT_EQ(a.advise().counts.inserted, pages() / 2);
    EXPECT_EQ(b.advise().counts.merged, pages() / 2);
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), pages());
    a.check();
    b.check();
}

// PSS is what people measure: with N processes it must be RSS / N.
TEST_P(Sharing, PssIsRssByN) {
    constexpr std::size_t kProcesses = 4;
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    std::vector<Actor> actors;
    for (std::size_t i = 0; i < kProcesses; i++)
        actors.emplace_back(kind(), pattern, pages());
    for (Actor &actor : actors)
        EXPECT_EQ(actor.advise().done(), pages());
    for (Actor &actor : actors) {
        const Usage memory = actor.usage();
        EXPECT_EQ(memory.rss, pages() * kPage);
        // smaps rounds the sum of a mapping down to KiB.
        EXPECT_LE(memory.pss, memory.rss / kProcesses);
        EXPECT_GE(memory.pss + 1024 * memory.mappings, memory.rss / kProcesses);
        actor.check();
    }
}

// An advise that repeats finds everything done.
TEST_P(Sharing, SecondAdviseIsAlready) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    a.advise();
    const Frames frames = a.frames();
    const Advice again = a.advise();
    EXPECT_EQ(again.error, 0);
    EXPECT_EQ(again.counts.already, pages());
    EXPECT_EQ(a.frames(), frames);
    a.check();
}

// Advising parts, in any order, amounts to the same as the whole.
TEST_P(Sharing, PartsInAnyOrder) {
    const Pattern pattern = mixed();
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    const std::size_t third = pages() / 3;
    EXPECT_EQ(a.advise(2 * third, pages() - 2 * third).skipped_all(), 0U);
    EXPECT_EQ(a.advise(0, third).skipped_all(), 0U);
    EXPECT_EQ(a.advise(third, third).skipped_all(), 0U);
    a.check();
    EXPECT_EQ(b.advise().done(), pages());
    EXPECT_GE(equal_frames(a.frames(), b.frames()), shared());
    a.check();
    b.check();
}

// Batches of one page, of odd size and of more than the range: same result.
TEST_P(Sharing, BatchSizes) {
    for (const unsigned batch : {1U, 3U, 17U, 512U}) {
        const Knob knob("batch_pages", batch);
        const Pattern pattern = mixed();
        Actor a(kind(), pattern, pages());
        Actor b(kind(), pattern, pages());
        EXPECT_EQ(a.advise().done(), pages()) << "batches of " << batch;
        EXPECT_EQ(b.advise().done(), pages()) << "batches of " << batch;
        EXPECT_GE(equal_frames(a.frames(), b.frames()), shared());
        a.check();
        b.check();
    }
}

} // namespace

} // namespace upm::test
