// SPDX-License-Identifier: MIT
//
// Huge pages whose content is known. Where the module can freeze one as a whole it does,
// and does not split it; where it cannot, or may not, it has it split. What the program
// sees is the same.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/advisor.hpp"
#include "tests/kmod/support/cgroup.hpp"

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = kHugePage / kPage;

// The module was built with huge.c, so the kernel can freeze a huge page as one.
bool freezes_whole() {
    static const bool found =
        read_file("/proc/kallsyms").find(" upm_huge_frozen\t[upm]") != std::string::npos;
    return found;
}

// Huge pages that were split since the machine runs, or nothing if nobody counts them.
std::optional<std::uint64_t> splits() {
    std::istringstream lines(read_file("/proc/vmstat"));
    std::string name;
    std::uint64_t value = 0;
    while (lines >> name >> value)
        if (name == "thp_split_page")
            return value;
    return std::nullopt;
}

// So many are split while it lives, if that is counted.
class ExpectSplits {
  public:
    explicit ExpectSplits(std::uint64_t wanted) : wanted_(wanted) {}
    ~ExpectSplits() {
        if (before_) {
            EXPECT_EQ(splits().value_or(0) - *before_, wanted_);
        }
    }
    ExpectSplits(const ExpectSplits &) = delete;
    ExpectSplits &operator=(const ExpectSplits &) = delete;

  private:
    std::uint64_t wanted_;
    std::optional<std::uint64_t> before_ = splits();
};

Pattern distinct(std::uint64_t seed) {
    return {Content::kDistinct, seed};
}

class Huge : public KmodTest {
  protected:
    void SetUp() override {
        KmodTest::SetUp();
        if (huge_pages_are_off())
            GTEST_SKIP() << "transparent huge pages are off";
    }

    // All of `b` is merged with what `a` has; it was split only if `is_split`.
    static void expect_merged(Actor &a, Actor &b, bool is_split = false) {
        const std::uint64_t many = freezes_whole() && !is_split ? 0 : b.pages() / kPages;
        const Advice advice = [&] {
            const ExpectSplits expected(many);
            return b.advise();
        }();
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.counts.merged, b.pages());
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), b.pages());
        EXPECT_EQ(b.usage().anon_huge, 0U);
        b.check();
    }

    // Runs it in a process that may fill a huge page with what another one has inserted.
    void beside_known(void (*function)(std::uint64_t seed)) {
        Actor a(Kind::kHuge, pattern_, kPages);
        EXPECT_EQ(a.advise().counts.inserted, kPages);
        Process child;
        child.call(function, pattern_.seed);
        a.check();
    }

    Device upm_;
    Pattern pattern_ = distinct(fresh_seed());
};

// Neither side loses a byte, before and after writes to every page, and both merge again.
TEST_F(Huge, KnownIsNotSplit) {
    Actor a(Kind::kHuge, pattern_, 3 * kPages);
    Actor b(Kind::kHuge, pattern_, 3 * kPages);
    EXPECT_EQ(a.advise().counts.inserted, 3 * kPages);
    expect_merged(a, b);
    for (std::size_t i = 0; i < b.pages(); i++)
        b.write(i, i);
    a.check();
    b.check();
    EXPECT_EQ(b.advise().counts.inserted, b.pages());
    b.check();
}

// The range begins and ends in the middle of a huge page, of which there is a whole one.
TEST_F(Huge, BordersElsewhere) {
    Actor a(Kind::kHuge, pattern_, 3 * kPages);
    Actor b(Kind::kHuge, pattern_, 3 * kPages);
    EXPECT_EQ(a.advise().counts.inserted, 3 * kPages);
    constexpr std::size_t kFirst = 37;
    constexpr std::size_t kMany = 3 * kPages - 37 - 5;
    {
        const ExpectSplits expected(freezes_whole() ? 2 : 3);
        EXPECT_EQ(b.advise(kFirst, kMany).counts.merged, kMany);
    }
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), kMany);
    b.check();
    EXPECT_EQ(b.advise().counts.merged, b.pages() - kMany);
    b.check();
}

// Zeros need no shared page; nothing is mapped in their place.
TEST_F(Huge, WithZeros) {
    beside_known(+[](std::uint64_t seed) {
        Region region(Kind::kHuge, distinct(seed), kPages);
        const std::array<std::byte, kPage> zeros{};
        for (const std::size_t i : {std::size_t{0}, std::size_t{200}, kPages - 1})
            region.write(i * kPage, zeros.data(), kPage);
        const ExpectSplits expected(freezes_whole() ? 0 : 1);
        const Advice advice = Device().advise(region.base(), region.len());
        EXPECT_EQ(advice.counts.merged, kPages - 3);
        // 6.12 gives zeros up by itself where it splits.
        EXPECT_EQ(advice.counts.zero + advice.counts.already, 3U);
        region.check();
        region.write(200, 7);
        region.check();
    });
}

// The kernel's own huge page of zeros.
TEST_F(Huge, ZeroPage) {
    const Mapping place = Mapping::huge(2 * kHugePage);
    ASSERT_EQ(::madvise(place.base(), place.len(), MADV_DONTNEED), 0);
    EXPECT_EQ(*place.page(3), std::byte{0});
    const Advice advice = upm_.advise(place.base(), place.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.counts.zero + advice.counts.already + advice.skipped(UPM_SKIP_NOT_PRESENT) +
                  advice.skipped(UPM_SKIP_SHARED),
              place.len() / kPage);
    for (std::size_t i = 0; i < place.len() / kPage; i++)
        ASSERT_EQ(*place.page(i), std::byte{0});
    *place.page(5) = std::byte{1};
    EXPECT_EQ(*place.page(6), std::byte{0});
}

// One page that nobody knows: the huge page is given back and split, and all of it merges.
TEST_F(Huge, OnePageIsNew) {
    for (const std::size_t odd : {std::size_t{0}, std::size_t{255}, kPages - 1}) {
        const Pattern pattern = distinct(fresh_seed());
        Actor a(Kind::kHuge, pattern, kPages);
        Actor b(Kind::kHuge, pattern, kPages);
        EXPECT_EQ(a.advise().counts.inserted, kPages);
        b.write(odd, 99);
        const Advice advice = b.advise();
        EXPECT_EQ(advice.counts.merged, kPages - 1);
        EXPECT_EQ(advice.counts.inserted, 1U);
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), kPages - 1);
        a.check();
        b.check();
    }
}

// The new page may not become a shared one: it stays, and the others merge.
TEST_F(Huge, OnePageIsOverTheLimit) {
    Actor a(Kind::kHuge, pattern_, kPages);
    Actor b(Kind::kHuge, pattern_, kPages);
    EXPECT_EQ(a.advise().counts.inserted, kPages);
    b.write(300, 99);
    {
        const Knob full("domain_max_pages", kPages);
        const Advice advice = b.advise();
        EXPECT_EQ(advice.counts.merged, kPages - 1);
        EXPECT_EQ(advice.skipped(UPM_SKIP_LIMIT), 1U);
        b.check();
    }
    EXPECT_EQ(b.advise().counts.inserted, 1U);
    b.check();
}

// Who wants short batches has them.
TEST_F(Huge, ShortBatchesSplit) {
    const Knob knob("batch_pages", 64);
    Actor a(Kind::kHuge, pattern_, kPages);
    Actor b(Kind::kHuge, pattern_, kPages);
    EXPECT_EQ(a.advise().counts.inserted, kPages);
    expect_merged(a, b, true);
    a.check();
}

// Somebody has a reference on a page in the middle: nothing of it is touched, and it stays
// huge where it need not be split to find that out.
TEST_F(Huge, Referenced) {
    beside_known(+[](std::uint64_t seed) {
        Region region(Kind::kHuge, distinct(seed), kPages);
        std::array<int, 2> ends{};
        must(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
        Fd in(ends[0]);
        Fd out(ends[1]);
        const iovec part{.iov_base = region.page(77), .iov_len = kPage};
        ASSERT_EQ(::vmsplice(out.get(), &part, 1, 0), static_cast<ssize_t>(kPage));
        const Device upm;
        const Advice advice = upm.advise(region.base(), region.len());
        EXPECT_GE(advice.skipped(UPM_SKIP_BUSY) + advice.skipped(UPM_SKIP_COMPOUND), 1U);
        if (freezes_whole()) {
            EXPECT_EQ(advice.skipped(UPM_SKIP_BUSY), kPages);
            EXPECT_EQ(usage_of(0, region.base(), region.len()).anon_huge, kHugePage);
        }
        region.write(77, 1);
        region.write(78, 1);
        std::array<std::byte, kPage> got{};
        ASSERT_EQ(::read(in.get(), got.data(), kPage), static_cast<ssize_t>(kPage));
        EXPECT_EQ(std::memcmp(got.data(), region.page(77), kPage), 0);
        region.check();
        EXPECT_EQ(upm.advise(region.base(), region.len()).done(), kPages);
        region.check();
    });
}

// Shared since a fork: who advises gets the shared pages, the other one keeps the huge
// page, and then merges as well.
TEST_F(Huge, SharedByFork) {
    beside_known(+[](std::uint64_t seed) {
        Region region(Kind::kHuge, distinct(seed), kPages);
        const pid_t pid = fork_tied();
        if (pid == 0) {
            EXPECT_EQ(Device().advise(region.base(), region.len()).done(), kPages);
            region.check();
            for (std::size_t i = 0; i < kPages; i += 3)
                region.write(i, i);
            region.check();
            ::_exit(testing::Test::HasFailure() ? 1 : 0);
        }
        EXPECT_EQ(wait_for(pid), 0);
        if (freezes_whole()) {
            EXPECT_EQ(usage_of(0, region.base(), region.len()).anon_huge, kHugePage);
        }
        region.check();
        EXPECT_EQ(Device().advise(region.base(), region.len()).done(), kPages);
        region.check();
    });
}

// Memory that cannot be written to for now, and memory that is locked.
TEST_F(Huge, ReadOnlyAndLocked) {
    beside_known(+[](std::uint64_t seed) {
        const Device upm;
        for (const bool locked : {false, true}) {
            Region region(Kind::kHuge, distinct(seed), kPages);
            if (locked)
                ASSERT_EQ(::mlock(region.base(), region.len()), 0);
            else
                ASSERT_EQ(::mprotect(region.base(), region.len(), PROT_READ), 0);
            EXPECT_EQ(upm.advise(region.base(), region.len()).counts.merged, kPages);
            region.check();
            ASSERT_EQ(::mprotect(region.base(), region.len(), PROT_READ | PROT_WRITE), 0);
            for (std::size_t i = 0; i < kPages; i++)
                region.write(i, i);
            region.check();
        }
    });
}

// A group without room for so much as another page: the way on needs no memory.
TEST_F(Huge, GroupAtItsLimit) {
    const Cgroup cgroup;
    if (!cgroup)
        GTEST_SKIP() << "no memory controller of cgroup v2";
    Actor a(Kind::kHuge, pattern_, 4 * kPages);
    EXPECT_EQ(a.advise().counts.inserted, 4 * kPages);
    Actor b(Kind::kHuge, pattern_, 4 * kPages, [&] { cgroup.join(::getpid()); });
    // What a call needs for itself.
    cgroup.limit(cgroup.current() + 64 * kPage);
    EXPECT_EQ(b.advise().counts.merged, 4 * kPages);
    b.check();
    EXPECT_FALSE(cgroup.killed_any());
    cgroup.unlimited();
}

// ---- races -----------------------------------------------------------------------

// Huge pages come back with their known content while another thread advises them, and
// `work` does something to them. No byte is wrong.
void race(const Pattern &pattern, double seconds,
          const std::function<void(Region &, Random &)> &work) {
    Region region(Kind::kHuge, pattern, 2 * kPages);
    const Advisor advisor(region);
    constexpr unsigned kRounds = 20;
    Random random(pattern.seed);
    std::vector<std::byte> page(kPage);
    const double end = now() + seconds;
    for (unsigned round = 0; now() < end || round < kRounds; round++) {
        ASSERT_EQ(::madvise(region.base(), region.len(), MADV_DONTNEED), 0);
        for (std::size_t i = 0; i < region.pages(); i++) {
            pattern.fill(i, page.data());
            region.write(i * kPage, page.data(), kPage);
        }
        work(region, random);
        ASSERT_EQ(region.first_wrong(), -1) << "round " << round;
    }
}

class HugeRaces : public Huge {
  protected:
    void SetUp() override {
        Huge::SetUp();
        if (IsSkipped())
            return;
        keeper_ = std::make_unique<Actor>(Kind::kHuge, pattern_, 2 * kPages);
        EXPECT_EQ(keeper_->advise().counts.inserted, 2 * kPages);
    }
    void TearDown() override {
        if (keeper_)
            keeper_->check();
        keeper_.reset();
        Huge::TearDown();
    }
    void in_child(void (*function)(std::uint64_t, double)) {
        Process child;
        child.call(function, pattern_.seed, test_seconds(2.5));
    }

  private:
    std::unique_ptr<Actor> keeper_;
};

TEST_F(HugeRaces, Writer) {
    in_child(+[](std::uint64_t seed, double seconds) {
        race(distinct(seed), seconds, [](Region &region, Random &random) {
            for (int i = 0; i < 200; i++)
                region.write(random.below(region.pages()), random.next());
        });
    });
}

TEST_F(HugeRaces, PartIsDropped) {
    in_child(+[](std::uint64_t seed, double seconds) {
        race(distinct(seed), seconds, [](Region &region, Random &random) {
            for (int i = 0; i < 5; i++) {
                const std::size_t page = random.below(region.pages() - 40);
                const std::size_t pages = 1 + random.below(40);
                ASSERT_EQ(::madvise(region.page(page), pages * kPage, MADV_DONTNEED), 0);
                region.expect_zeros(page, pages);
                region.write(page, random.next());
            }
        });
    });
}

TEST_F(HugeRaces, Protection) {
    in_child(+[](std::uint64_t seed, double seconds) {
        race(distinct(seed), seconds, [](Region &region, Random &random) {
            const std::size_t page = random.below(region.pages());
            const std::size_t len = (region.pages() - page) * kPage;
            ASSERT_EQ(::mprotect(region.page(page), len, PROT_READ), 0);
            ASSERT_EQ(region.first_wrong(), -1);
            ASSERT_EQ(::mprotect(region.page(page), len, PROT_READ | PROT_WRITE), 0);
            region.write(page, random.next());
        });
    });
}

TEST_F(HugeRaces, Fork) {
    in_child(+[](std::uint64_t seed, double seconds) {
        race(distinct(seed), seconds, [](Region &region, Random &random) {
            const pid_t pid = fork_tied();
            if (pid == 0)
                ::_exit(region.first_wrong() == -1 ? 0 : 1);
            region.write(random.below(region.pages()), random.next());
            EXPECT_EQ(wait_for(pid), 0);
        });
    });
}

TEST_F(HugeRaces, MunmapAndMap) {
    in_child(+[](std::uint64_t seed, double seconds) {
        race(distinct(seed), seconds, [](Region &region, Random &random) {
            const std::size_t page = random.below(region.pages());
            const std::size_t len = (region.pages() - page) * kPage;
            ASSERT_EQ(::munmap(region.page(page), len), 0);
            ASSERT_EQ(::mmap(region.page(page), len, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                      region.page(page));
            ASSERT_EQ(::madvise(region.page(page), len, MADV_HUGEPAGE), 0);
            region.expect_zeros(page, region.pages() - page);
        });
    });
}

// The kernel moves them, splits them and swaps them for reasons of its own.
TEST_F(HugeRaces, CompactionAndSplits) {
    in_child(+[](std::uint64_t seed, double seconds) {
        const std::string split = "/sys/kernel/debug/split_huge_pages";
        race(distinct(seed), seconds, [&](Region &region, Random &random) {
            write_file("/proc/sys/vm/compact_memory", "1");
            if (exists(split))
                write_file(split, "1");
            region.write(random.below(region.pages()), random.next());
        });
    });
}

} // namespace

} // namespace upm::test
