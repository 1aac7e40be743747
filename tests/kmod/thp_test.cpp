// SPDX-License-Identifier: MIT
//
// Transparent huge pages in the states that the matrix does not reach: parts of
// them advised, unmapped, pinned, shared by fork.
#include "tests/kmod/support/actor.hpp"

#include <array>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = kHugePage / kPage;

class Thp : public KmodTest {
  protected:
    void SetUp() override {
        KmodTest::SetUp();
        if (huge_pages_are_off())
            GTEST_SKIP() << "transparent huge pages are off";
    }

    Device upm_;
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// Advised is a part from the middle: the rest of the huge page stays as it was.
TEST_F(Thp, PartIsAdvised) {
    Region region(Kind::kHuge, pattern_, kPages);
    const Advice advice = upm_.advise(region.page(100), 50 * kPage);
    EXPECT_EQ(advice.counts.inserted, 50U);
    region.check();
    region.write(99, 1);
    region.write(100, 2);
    region.write(150, 3);
    region.check();
    EXPECT_EQ(upm_.advise(region.base(), region.len()).done(), kPages);
    region.check();
}

// More than one huge page, and a border that is none of theirs.
TEST_F(Thp, SeveralHugePages) {
    Actor a(Kind::kHuge, pattern_, 3 * kPages);
    Actor b(Kind::kHuge, pattern_, 3 * kPages);
    EXPECT_EQ(a.advise(7, 3 * kPages - 9).counts.inserted, 3 * kPages - 9);
    a.check();
    EXPECT_EQ(b.advise().done(), 3 * kPages);
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), 3 * kPages - 9);
    b.check();
}

// A prediction must not split what it only looks at.
TEST_F(Thp, DryRunDoesNotSplit) {
    const Region region(Kind::kHuge, pattern_, kPages);
    const Advice advice = upm_.advise(region.base(), region.len(), {.flags = UPM_ADVISE_DRY_RUN});
    EXPECT_EQ(advice.counts.inserted, kPages);
    EXPECT_EQ(usage_of(0, region.base(), region.len()).anon_huge, kHugePage);
    region.check();
}

// A part is dropped, so that the rest is mapped page by page but is still one
// large folio: merged or left with the reason, but never damaged.
TEST_F(Thp, PartIsDropped) {
    Region region(Kind::kHuge, pattern_, kPages);
    ASSERT_EQ(::madvise(region.page(10), 4 * kPage, MADV_DONTNEED), 0);
    region.expect_zeros(10, 4);
    const Advice advice = upm_.advise(region.base(), region.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.skipped(UPM_SKIP_NOT_PRESENT), 4U);
    EXPECT_EQ(advice.done() + advice.skipped(UPM_SKIP_COMPOUND), kPages - 4);
    region.check();
    for (std::size_t i = 0; i < kPages; i++)
        region.write(i, i);
    region.check();
    EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
    region.check();
}

// The mapping is cut in the middle of a huge page, by protection.
TEST_F(Thp, MappingIsCut) {
    Region region(Kind::kHuge, pattern_, kPages);
    ASSERT_EQ(::mprotect(region.page(256), 128 * kPage, PROT_READ), 0);
    const Advice advice = upm_.advise(region.base(), region.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.done() + advice.skipped(UPM_SKIP_COMPOUND), kPages);
    region.check();
    ASSERT_EQ(::mprotect(region.page(256), 128 * kPage, PROT_READ | PROT_WRITE), 0);
    for (std::size_t i = 0; i < kPages; i += 5)
        region.write(i, i);
    region.check();
}

// A part of the huge page moved elsewhere.
TEST_F(Thp, PartIsMoved) {
    Region region(Kind::kHuge, pattern_, kPages);
    Mapping place(64 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
    ASSERT_EQ(::mremap(region.page(64), 64 * kPage, 64 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                       place.base()),
              place.base());
    EXPECT_EQ(upm_.advise(region.base(), 64 * kPage).error, 0);
    EXPECT_EQ(upm_.advise(place.base(), place.len()).error, 0);
    std::array<std::byte, kPage> wanted{};
    for (std::size_t i = 0; i < 64; i++) {
        pattern_.fill(64 + i, wanted.data());
        EXPECT_EQ(std::memcmp(place.page(i), wanted.data(), kPage), 0);
        pattern_.fill(i, wanted.data());
        EXPECT_EQ(std::memcmp(region.page(i), wanted.data(), kPage), 0);
    }
}

// One pinned page keeps the kernel from splitting: nothing of it is merged, or at
// least not that page, and what the pin's owner sees is what the program sees.
TEST_F(Thp, Pinned) {
    Region region(Kind::kHuge, pattern_, kPages);
    std::array<int, 2> ends{};
    must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
    Fd in(ends[0]);
    Fd out(ends[1]);
    const iovec part{.iov_base = region.page(77), .iov_len = kPage};
    ASSERT_EQ(::vmsplice(out.get(), &part, 1, 0), static_cast<ssize_t>(kPage));
    const Advice advice = upm_.advise(region.base(), region.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_GE(advice.skipped(UPM_SKIP_BUSY) + advice.skipped(UPM_SKIP_COMPOUND), 1U);
    region.check();
    std::array<std::byte, kPage> got{};
    ASSERT_EQ(::read(in.get(), got.data(), kPage), static_cast<ssize_t>(kPage));
    EXPECT_EQ(std::memcmp(got.data(), region.page(77), kPage), 0);
    // Free again, it merges.
    EXPECT_GE(upm_.advise(region.base(), region.len()).done(), kPages / 2);
    region.check();
}

// A huge page that two processes share since a fork.
TEST_F(Thp, SharedByFork) {
    Region region(Kind::kHuge, pattern_, kPages);
    const pid_t pid = fork_tied();
    if (pid == 0) {
        EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
        region.check();
        for (std::size_t i = 0; i < kPages; i += 3)
            region.write(i, i);
        region.check();
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    EXPECT_EQ(upm_.advise(region.base(), region.len()).error, 0);
    region.check();
    EXPECT_EQ(wait_for(pid), 0);
    region.check();
}

// khugepaged, and MADV_COLLAPSE, must not make a huge page of merged ones.
TEST_F(Thp, CollapseLeavesMergedPagesAlone) {
    constexpr int kMadvCollapse = 25;
    Region region(Kind::kHuge, pattern_, kPages);
    ASSERT_EQ(upm_.advise(region.base(), region.len()).counts.inserted, kPages);
    const Frames shared = frames_of(0, region.base(), kPages);
    const Knob defrag("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", 1);
    ::madvise(region.base(), region.len(), kMadvCollapse); // refused, one way or another
    EXPECT_EQ(frames_of(0, region.base(), kPages), shared);
    region.check();
    // Written all over and merged no more, it may collapse; the bytes stay.
    for (std::size_t i = 0; i < kPages; i++)
        region.write(i, i);
    ::madvise(region.base(), region.len(), kMadvCollapse);
    region.check();
    EXPECT_EQ(upm_.advise(region.base(), region.len()).done(), kPages);
    region.check();
}

} // namespace

} // namespace upm::test
