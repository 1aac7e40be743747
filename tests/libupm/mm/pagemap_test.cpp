// SPDX-License-Identifier: MIT
#include "libupm/mm/pagemap.hpp"
#include "tests/support/support.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

TEST(PageScan, TellsWhatIsThere) {
    const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    ASSERT_GE(pagemap, 0);
    const Pages pages(100);
    const auto there = [&](std::size_t first, std::size_t count) {
        return all_present(pagemap, reinterpret_cast<std::uint64_t>(pages.page(first)),
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
    (void)::close(pagemap);
    EXPECT_FALSE(there(51, 49)) << "cannot be told";
}

} // namespace

} // namespace upm::test
