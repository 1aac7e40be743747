// SPDX-License-Identifier: MIT
#include "libupm/mm/pagemap.hpp"

#include "libupm/mm/vma_reader.hpp"
#include "tests/support/support.hpp"

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

TEST(PageMap, TellsWhatIsThere) {
    const PageMap pagemap;
    ASSERT_EQ(pagemap.error(), 0);
    const Pages pages(100);
    const auto there = [&](std::size_t first, std::size_t count) {
        return pagemap.all_present(reinterpret_cast<std::uint64_t>(pages.page(first)),
                                   count * page_size());
    };
    EXPECT_FALSE(there(0, 100)) << "nothing was touched";
    pages.fill(1);
    if (!there(0, 100))
        GTEST_SKIP() << "a kernel before 6.7, which cannot tell";
    ASSERT_EQ(::madvise(pages.page(50), page_size(), MADV_DONTNEED), 0);
    EXPECT_FALSE(there(0, 100));
    EXPECT_TRUE(there(0, 50));
    EXPECT_FALSE(there(50, 50)) << "the first one is missing";
    EXPECT_FALSE(there(0, 51)) << "the last one is missing";
    EXPECT_TRUE(there(51, 49));
}

TEST(PageMap, ReadsEntries) {
    const PageMap pagemap;
    const Pages pages(3);
    pages.page(1)[0] = 'x';
    std::uint64_t entries[3] = {};
    ASSERT_EQ(pagemap.read(reinterpret_cast<std::uint64_t>(pages.data()), 3, entries), 0);
    EXPECT_EQ(entries[0] & kPagePresent, 0U);
    EXPECT_NE(entries[1] & kPagePresent, 0U);
    EXPECT_EQ(entries[1] & kPageOfFile, 0U);
    EXPECT_EQ(entries[2] & kPagePresent, 0U);
}

TEST(PageMap, SaysWhyItCannotTell) {
    const PageMap none("/proc/0/pagemap");
    EXPECT_EQ(none.error(), -ENOENT);
    std::uint64_t entry = 0;
    EXPECT_EQ(none.read(0, 1, &entry), -EBADF);
    EXPECT_FALSE(none.all_present(0, page_size()));
    const TempDir dir;
    const std::string path = dir.path() + "/short";
    std::ofstream(path) << "four";
    const PageMap cut(path.c_str());
    EXPECT_EQ(cut.error(), 0);
    EXPECT_EQ(cut.read(0, 1, &entry), -EIO) << "not a whole entry";
}

// What is looked at below a thread's own folder holds up the end of the process.
TEST(PageMap, IsNotLookedAtThroughTheThread) {
    std::thread([] {
        const PageMap pagemap;
        ASSERT_EQ(pagemap.error(), 0);
        bool found = false;
        for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code gone; // the iterator's own
            const std::string path = std::filesystem::read_symlink(entry, gone).string();
            found = found || path == "/proc/" + std::to_string(::getpid()) + "/pagemap";
        }
        EXPECT_TRUE(found);
        EXPECT_STREQ(own_proc(), "/proc/self");
        EXPECT_STREQ(own_maps(), "/proc/self/maps");
        EXPECT_STREQ(own_smaps(), "/proc/self/smaps");
    }).join();
}

// A program may end its first thread and go on.
TEST(PageMap, OfAProcessWhoseFirstThreadEnded) {
    EXPECT_EQ(in_child([] {
                  std::thread([] {
                      // Until the first thread is a zombie: it has no memory then.
                      const std::string maps = "/proc/self/maps";
                      std::string line;
                      do
                          ::usleep(1000);
                      while (std::getline(std::ifstream(maps), line));
                      char here = 1;
                      std::uint64_t entry = 0;
                      const PageMap pagemap;
                      const auto at = reinterpret_cast<std::uint64_t>(&here);
                      const bool told = pagemap.error() == 0 && pagemap.read(at, 1, &entry) == 0 &&
                                        (entry & kPagePresent) != 0 &&
                                        own_maps() == std::string("/proc/thread-self/maps");
                      ::_exit(told ? 0 : 1);
                  }).detach();
                  (void)::syscall(SYS_exit, 0); // of this thread only
                  return 2;
              }),
              0);
}

} // namespace

} // namespace upm::test
