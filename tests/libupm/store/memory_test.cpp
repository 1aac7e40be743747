// SPDX-License-Identifier: MIT
//
// The program's memory: no write is lost, whoever writes, and a child and a second
// process see what they must.
#include "tests/libupm/store/fixture.hpp"

#include <atomic>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <pthread.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

class StoreMemory : public StoreTest {};

TEST_F(StoreMemory, SecondProcessMergesWhatTheFirstInserted) {
    insert_elsewhere(5000, 1);
    const Pages pages(5000);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged, 5000U);
    EXPECT_TRUE(has_pattern(pages, 1));
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.already, 5000U);
}

// A run of successors must not go on over pages that differ, and come back behind them.
TEST_F(StoreMemory, DifferencesInTheMiddle) {
    insert_elsewhere(3000, 1);
    const Pages pages(3000);
    fill_pattern(pages, 1);
    for (std::size_t i = 1000; i < 1040; ++i)
        *reinterpret_cast<std::uint64_t *>(pages.page(i)) = 7777 + i;
    std::memset(pages.page(2000), 0, 3 * page_size());
    const std::string before(pages.data(), pages.size());
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged, 2957U);
    EXPECT_EQ(counts.inserted, 40U);
    EXPECT_EQ(counts.zero, 3U);
    EXPECT_EQ(std::memcmp(before.data(), pages.data(), pages.size()), 0);
}

// One bit of every fourth page, at another place of each.
TEST_F(StoreMemory, WhereverAPageDiffers) {
    constexpr std::size_t kPages = 1024;
    insert_elsewhere(kPages, 1);
    const Pages pages(kPages);
    fill_pattern(pages, 1);
    for (std::size_t i = 3; i < kPages; i += 4)
        pages.page(i)[i * page_size() / kPages + page_size() / kPages - 1] ^= 1;
    const std::string before(pages.data(), pages.size());
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged, kPages / 4 * 3);
    EXPECT_EQ(counts.inserted, kPages / 4);
    EXPECT_EQ(std::memcmp(before.data(), pages.data(), pages.size()), 0);
}

// Threads count up, and one lets the kernel write by read(2), while the memory is
// merged again and again: every write must be there at the end.
TEST_F(StoreMemory, NoWriteIsLost) {
    ASSERT_EQ(open(), 0) << text;
    const bool system_calls = !backend.capabilities().quiescent;
    constexpr std::size_t kPages = 1024;
    const Pages pages(kPages);
    fill_pattern(pages, 2);
    std::atomic<bool> stop{false};
    std::vector<std::uint64_t> written(kPages, 0);
    const auto count_up = [&](std::size_t first) {
        for (std::size_t i = first; !stop; i = (i + 6) % kPages) {
            auto *const slot = reinterpret_cast<volatile std::uint64_t *>(pages.page(i));
            *slot = written[i] == 0 ? 1 : *slot + 1;
            ++written[i];
        }
    };
    // Even pages are for one thread, odd ones for the other: 6 and 1024 are even.
    std::thread even(count_up, 0);
    std::thread odd(count_up, 1);
    const TempDir dir;
    std::vector<std::uint64_t> read_last(kPages, 0);
    std::atomic<int> failures{0};
    std::thread reader([&] {
        const int fd = ::open((dir.path() + "/f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        for (std::uint64_t n = 1; !stop && system_calls; ++n) {
            const std::size_t i = n * 13 % kPages;
            // In the second half of the page, where the others do not write.
            if (::pwrite(fd, &n, sizeof(n), 0) != sizeof(n) ||
                ::pread(fd, pages.page(i) + 2048, sizeof(n), 0) != sizeof(n))
                ++failures;
            read_last[i] = n;
        }
        (void)::close(fd);
    });
    for (int round = 0; round < 40; ++round)
        EXPECT_EQ(advise(pages), 0);
    stop = true;
    even.join();
    odd.join();
    reader.join();
    EXPECT_EQ(failures, 0);
    for (std::size_t i = 0; i < kPages; ++i) {
        std::uint64_t found = 0;
        std::memcpy(&found, pages.page(i), sizeof(found));
        if (written[i] != 0) {
            ASSERT_EQ(found, written[i]) << "page " << i;
        }
        std::memcpy(&found, pages.page(i) + 2048, sizeof(found));
        if (read_last[i] != 0) {
            ASSERT_EQ(found, read_last[i]) << "page " << i << ", by read(2)";
        }
    }
}

TEST_F(StoreMemory, ChildOfAnAdvisedParent) {
    const Pages pages(200);
    fill_pattern(pages, 3);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    const int status = in_child([&] {
        if (advise(pages) != 0 || counts.already != 200 || !has_pattern(pages, 3))
            return 1;
        pages.page(7)[0] ^= 1;
        if (advise(pages) != 0 || counts.inserted != 1 || counts.already != 199)
            return 2;
        fill_pattern(pages, 4);
        return advise(pages) == 0 && counts.inserted == 200 && has_pattern(pages, 4) ? 0 : 3;
    });
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(has_pattern(pages, 3));
    // The parent's connection must be as good as before.
    const Pages more(10);
    fill_pattern(more, 5);
    EXPECT_EQ(advise(more), 0);
    EXPECT_EQ(counts.inserted, 10U);
}

TEST_F(StoreMemory, UnmergeGivesZerosAfterDontneed) {
    const Pages pages(600);
    fill_pattern(pages, 6);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    pages.page(3)[1] ^= 1;
    pages.page(3)[1] ^= 1; // a private copy of equal content
    ASSERT_EQ(unmerge(pages), 0);
    EXPECT_EQ(counts.unmerged, 599U);
    EXPECT_EQ(counts.kept, 1U);
    EXPECT_TRUE(has_pattern(pages, 6));
    ASSERT_EQ(::madvise(pages.data(), pages.size(), MADV_DONTNEED), 0);
    EXPECT_EQ(pages.page(5)[0], '\0');
}

TEST_F(StoreMemory, UnmergeOfWhatWasWrittenTo) {
    const Pages pages(600);
    fill_pattern(pages, 6);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    fill_pattern(pages, 7);
    ASSERT_EQ(unmerge(pages), 0);
    EXPECT_EQ(counts.kept, 600U);
    EXPECT_TRUE(has_pattern(pages, 7));
    ASSERT_EQ(::madvise(pages.data(), pages.size(), MADV_DONTNEED), 0);
    EXPECT_EQ(pages.page(5)[0], '\0');
    EXPECT_EQ(pages.page(599)[0], '\0');
}

// As a tensor lies in a block of malloc: a part of a mapping.
TEST_F(StoreMemory, PartOfAMapping) {
    const Pages pages(300);
    fill_pattern(pages, 7);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(call({.addr = reinterpret_cast<std::uint64_t>(pages.page(1)),
                    .len = 200 * page_size(),
                    .quiescent = true}),
              0);
    EXPECT_EQ(counts.inserted, 200U);
    EXPECT_TRUE(has_pattern(pages, 7));
}

// Where the kernel puts a thread's stack is chance: it may be right beside a block that the
// thread is to merge. Only what it uses of the stack must not freeze.
TEST_F(StoreMemory, BesideTheStackOfItsThread) {
    constexpr std::size_t kBlock = 100;
    constexpr std::size_t kStack = 64;
    const Pages all(kBlock + kStack + kBlock);
    ASSERT_EQ(open(), 0) << text;
    const auto fill = [&](std::size_t first, char *copy) {
        for (std::size_t page = first; page < first + kBlock; ++page)
            std::memcpy(all.page(page), &page, sizeof(page));
        std::memcpy(copy, all.page(first), kBlock * page_size());
    };
    const Pages below(kBlock);
    const Pages above(kBlock);
    all.fill('s');
    fill(0, below.data());
    fill(kBlock + kStack, above.data());
    const auto part = [&](std::size_t first, std::size_t count) {
        return call({.addr = reinterpret_cast<std::uint64_t>(all.page(first)),
                     .len = count * page_size(),
                     .quiescent = true});
    };
    std::function<void()> body = [&] {
        EXPECT_EQ(part(0, kBlock), 0);
        EXPECT_EQ(counts.inserted, kBlock) << "below";
        EXPECT_EQ(part(kBlock + kStack, kBlock), 0);
        EXPECT_EQ(counts.inserted, kBlock) << "above";
        EXPECT_EQ(part(kBlock, kStack), 0);
        EXPECT_EQ(counts.skipped[UPM_SKIPPED_UNSUPPORTED], kStack) << "the stack itself";
    };
    pthread_attr_t attributes;
    ASSERT_EQ(::pthread_attr_init(&attributes), 0);
    ASSERT_EQ(::pthread_attr_setstack(&attributes, all.page(kBlock), kStack * page_size()), 0);
    pthread_t thread{};
    const auto run = [](void *work) -> void * {
        (*static_cast<std::function<void()> *>(work))();
        return nullptr;
    };
    ASSERT_EQ(::pthread_create(&thread, &attributes, run, &body), 0);
    (void)::pthread_join(thread, nullptr);
    (void)::pthread_attr_destroy(&attributes);
    EXPECT_EQ(std::memcmp(all.page(0), below.data(), below.size()), 0);
    EXPECT_EQ(std::memcmp(all.page(kBlock + kStack), above.data(), above.size()), 0);
}

TEST_F(StoreMemory, ProgramClosesEveryDescriptor) {
    const Pages pages(50);
    fill_pattern(pages, 8);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(in_child([&] {
                  for (int fd = 3; fd < 256; ++fd)
                      (void)::close(fd);
                  return advise(pages) == 0 && has_pattern(pages, 8) ? 0 : 1;
              }),
              0);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    EXPECT_EQ(in_child([&] {
                  for (int fd = 100; fd < 140; ++fd)
                      (void)::dup2(null, fd);
                  return advise(pages) == 0 && has_pattern(pages, 8) ? 0 : 1;
              }),
              0);
    (void)::close(null);
}

} // namespace

} // namespace upm::test
