// SPDX-License-Identifier: MIT
//
// Two and three operations in a row, each of which works alone. What the first leaves
// behind must be right for the next.
#include "tests/libupm/store/fixture.hpp"

#include <atomic>
#include <csignal>
#include <fstream>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kCount = 600; // in more than one batch

class StoreSequence : public StoreTest {
  protected:
    void SetUp() override {
        StoreTest::SetUp();
        ASSERT_EQ(open(), 0) << text;
    }
};

std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);)
        ++count;
    return count;
}

// In the mapping of a segment, memory that was given back would be the segment's again.
TEST_F(StoreSequence, AdviseWriteZerosAdvise) {
    const Pages pages(kCount);
    fill_pattern(pages, 1);
    ASSERT_EQ(advise(pages), 0);
    std::memset(pages.page(10), 0, 500 * page_size());
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.zero, 500U);
    EXPECT_EQ(counts.already, kCount - 500);
    const Pages zeros(500);
    EXPECT_EQ(std::memcmp(pages.page(10), zeros.data(), zeros.size()), 0);
    // They are fresh memory now: writable, private, and zeros again when given back.
    fill_pattern(pages, 2);
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, kCount);
    EXPECT_TRUE(has_pattern(pages, 2));
}

// The allocator gives the place to somebody else, whose memory must be plain.
TEST_F(StoreSequence, AdviseFreeAllocateDontneed) {
    constexpr std::size_t kSize = 64UL << 20; // more than the heap has free: a mapping
    for (std::uint64_t round = 1; round <= 2; ++round) {
        auto *const block = static_cast<char *>(std::malloc(kSize));
        ASSERT_NE(block, nullptr);
        std::memset(block, static_cast<int>(round), kSize);
        ASSERT_EQ(call({.addr = (reinterpret_cast<std::uint64_t>(block) + page_size() - 1) &
                                ~(page_size() - 1),
                        .len = kSize - page_size(),
                        .quiescent = true}),
                  0);
        EXPECT_GT(counts.merged + counts.inserted + counts.zero, 0U);
        std::free(block);
        auto *const next = static_cast<char *>(std::malloc(kSize));
        ASSERT_NE(next, nullptr);
        for (std::size_t i = 0; i < kSize; i += page_size())
            ASSERT_EQ(next[i], '\0') << "of a mapping of its own";
        std::memset(next, 'x', kSize);
        auto *const inner = reinterpret_cast<char *>(
            (reinterpret_cast<std::uint64_t>(next) + page_size()) & ~(page_size() - 1));
        ASSERT_EQ(::madvise(inner, kSize - 2 * page_size(), MADV_DONTNEED), 0);
        EXPECT_EQ(inner[5], '\0');
        std::free(next);
    }
}

TEST_F(StoreSequence, AdviseProtectUnmerge) {
    const Pages pages(kCount);
    fill_pattern(pages, 3);
    ASSERT_EQ(advise(pages), 0);
    ASSERT_EQ(::mprotect(pages.page(5), 300 * page_size(), PROT_READ), 0);
    ASSERT_EQ(unmerge(pages), 0);
    EXPECT_EQ(counts.unmerged, kCount);
    EXPECT_TRUE(has_pattern(pages, 3));
    EXPECT_EQ(vm_flags(pages.page(0)).substr(0, 5), "rd wr");
    EXPECT_EQ(vm_flags(pages.page(5)).substr(0, 5), "rd mr");
    EXPECT_EQ(vm_flags(pages.page(304)).substr(0, 5), "rd mr");
    EXPECT_EQ(vm_flags(pages.page(305)).substr(0, 5), "rd wr");
    ASSERT_EQ(::mprotect(pages.page(5), 300 * page_size(), PROT_READ | PROT_WRITE), 0);
    fill_pattern(pages, 4);
    EXPECT_TRUE(has_pattern(pages, 4));
}

// A child that is forked in the middle of a call has its parent's bytes, none of which is
// frozen for it, and can advise them itself.
TEST_F(StoreSequence, ForkDuringACallChildAdvises) {
    const Pages pages(4 * kCount);
    std::atomic<bool> stop{false};
    std::atomic<int> error{0}; // the last one of the adviser's calls
    fill_pattern(pages, 5);
    std::thread adviser([&] {
        upm_counts unused{};
        const auto run = [&](const Call &call) {
            if (const int got = backend.run(call, unused))
                error = got;
        };
        while (!stop) {
            const Call all{.addr = reinterpret_cast<std::uint64_t>(pages.data()),
                           .len = pages.size(),
                           .quiescent = true};
            Call back = all;
            back.unmerge = true;
            run(all);
            run(back);
        }
    });
    for (int round = 0; round < 20; ++round) {
        EXPECT_EQ(in_child([&] {
                      if (!has_pattern(pages, 5))
                          return 1;
                      for (std::size_t i = 0; i < pages.size(); i += page_size())
                          pages.data()[i] = static_cast<char>(pages.data()[i] + 1); // not frozen
                      if (advise(pages) != 0)
                          return 2;
                      for (std::size_t i = 0; i < pages.size(); i += page_size())
                          pages.data()[i] = static_cast<char>(pages.data()[i] - 1);
                      return has_pattern(pages, 5) ? 0 : 3;
                  }),
                  0)
            << "round " << round;
    }
    stop = true;
    adviser.join();
    EXPECT_EQ(error, 0);
    EXPECT_TRUE(has_pattern(pages, 5));
}

TEST_F(StoreSequence, MovedAHundredTimes) {
    const std::size_t size = kCount * page_size();
    constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
    auto *place =
        static_cast<char *>(::mmap(nullptr, 2 * size, PROT_READ | PROT_WRITE, kPrivate, -1, 0));
    ASSERT_NE(place, MAP_FAILED);
    (void)::munmap(place + size, size);
    const Pages expected(kCount);
    fill_pattern(expected, 6);
    std::memcpy(place, expected.data(), size);
    std::size_t before = 0;
    for (int round = 0; round < 100; ++round) {
        ASSERT_EQ(
            call({.addr = reinterpret_cast<std::uint64_t>(place), .len = size, .quiescent = true}),
            0);
        EXPECT_EQ(round == 0 ? counts.inserted : counts.already, kCount);
        // One mapping of a segment can be moved as a whole.
        auto *const other = static_cast<char *>(::mmap(nullptr, size, PROT_NONE, kPrivate, -1, 0));
        ASSERT_NE(other, MAP_FAILED);
        if (::mremap(place, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, other) == MAP_FAILED)
            GTEST_SKIP() << "several mappings";
        place = other;
        ASSERT_EQ(std::memcmp(place, expected.data(), size), 0);
        if (round == 0)
            before = mappings();
    }
    EXPECT_LE(mappings(), before + 2);
    (void)::munmap(place, size);
}

// Each call by itself leaves nothing: no mapping, no descriptor, whether it ends well.
TEST_F(StoreSequence, CallsLeaveNothingBehind) {
    const Pages pages(kCount);
    const auto descriptors = [] { return ::dup(0); }; // the lowest number that is free
    std::size_t maps_before = 0;
    int fd_before = -1;
    for (int round = 0; round < 40; ++round) {
        fill_pattern(pages, 100 + static_cast<std::uint64_t>(round % 2));
        ASSERT_EQ(advise(pages), 0);
        ASSERT_EQ(unmerge(pages), 0);
        Call bad{.addr = reinterpret_cast<std::uint64_t>(pages.data()),
                 .len = pages.size(),
                 .domain_fd = 0, // no domain
                 .quiescent = true};
        EXPECT_EQ(call(bad), -EBADF);
        const int fd = descriptors();
        (void)::close(fd);
        if (round == 10) {
            maps_before = mappings();
            fd_before = fd;
        } else if (round > 10) {
            ASSERT_EQ(mappings(), maps_before) << "round " << round;
            ASSERT_EQ(fd, fd_before) << "round " << round;
        }
    }
}

} // namespace

} // namespace upm::test
