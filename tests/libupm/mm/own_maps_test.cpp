// SPDX-License-Identifier: MIT
#include "libupm/mm/own_maps.hpp"

#include "tests/support/support.hpp"

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/mman.h>

namespace upm::test {

namespace {

std::uint64_t address(const char *page) {
    return reinterpret_cast<std::uint64_t>(page);
}

// As this kernel tells it, and as one without PROCMAP_QUERY does: by a copy of the file.
TEST(OwnMaps, TellsTheProtectionOfParts) {
    const Pages pages(8);
    ASSERT_EQ(::mprotect(pages.page(3), 2 * page_size(), PROT_READ), 0);
    const TempDir dir;
    const std::string copy = dir.path() + "/maps";
    std::ofstream(copy) << std::ifstream("/proc/self/maps").rdbuf();
    for (const std::string &path : {std::string(own_maps()), copy}) {
        const OwnMaps maps(path.c_str());
        ASSERT_EQ(maps.error(), 0);
        const auto all = [&](std::size_t first, std::size_t end, int protection) {
            return maps.all_private(address(pages.page(first)),
                                    address(pages.data()) + end * page_size(), protection);
        };
        EXPECT_TRUE(all(0, 3, PROT_READ | PROT_WRITE)) << path;
        EXPECT_TRUE(all(3, 5, PROT_READ)) << path;
        EXPECT_TRUE(all(5, 8, PROT_READ | PROT_WRITE)) << path;
        EXPECT_FALSE(all(2, 4, PROT_READ | PROT_WRITE)) << path;
        EXPECT_FALSE(all(4, 6, PROT_READ | PROT_WRITE)) << path;
        EXPECT_FALSE(all(3, 5, PROT_READ | PROT_WRITE)) << path;
        Vma vma;
        ASSERT_TRUE(maps.find(address(pages.page(4)) + 5, vma)) << path;
        EXPECT_EQ(vma.start, address(pages.page(3))) << path;
        EXPECT_EQ(vma.end, address(pages.page(5))) << path;
        EXPECT_FALSE(maps.find(1, vma)) << path;
    }
}

TEST(OwnMaps, SharedMemoryIsNotPrivate) {
    void *const shared = ::mmap(nullptr, page_size(), PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    const auto start = reinterpret_cast<std::uint64_t>(shared);
    const OwnMaps maps;
    EXPECT_FALSE(maps.all_private(start, start + page_size(), PROT_READ));
    ASSERT_EQ(::munmap(shared, page_size()), 0);
    EXPECT_FALSE(maps.all_private(start, start + page_size(), PROT_READ)) << "a hole";
}

TEST(OwnMaps, WithoutTheFileNothingIsTold) {
    const OwnMaps none("/proc/0/maps");
    EXPECT_EQ(none.error(), -ENOENT);
    const Pages pages(1);
    EXPECT_FALSE(none.all_private(address(pages.data()), address(pages.data()) + page_size(),
                                  PROT_READ | PROT_WRITE));
}

} // namespace

} // namespace upm::test
