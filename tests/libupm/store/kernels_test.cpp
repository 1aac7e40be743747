// SPDX-License-Identifier: MIT
//
// Kernels that cannot do something, played: the test's own functions come before libc's.
#include "tests/libupm/store/fixture.hpp"

#include <cerrno>
#include <cstdarg>
#include <dlfcn.h>
#include <fstream>
#include <sys/mman.h>

namespace {

constexpr int kDontUnmap = 4; // MREMAP_DONTUNMAP
bool without_dontunmap = false;
bool without_moves = false;
int asked = 0;

} // namespace

extern "C" void *mremap(void *old, size_t old_size, size_t new_size, int flags, ...) noexcept {
    using Move = void *(*)(void *, size_t, size_t, int, void *);
    static const auto real = reinterpret_cast<Move>(::dlsym(RTLD_NEXT, "mremap"));
    va_list args;
    va_start(args, flags);
    void *const place = (flags & MREMAP_FIXED) != 0 ? va_arg(args, void *) : nullptr;
    va_end(args);
    if (without_moves && (flags & MREMAP_FIXED) != 0) {
        ++asked;
        errno = ENOMEM;
        return MAP_FAILED;
    }
    if (without_dontunmap && (flags & kDontUnmap) != 0) {
        ++asked;
        errno = EINVAL;
        return MAP_FAILED;
    }
    return real(old, old_size, new_size, flags, place);
}

namespace upm::test {

namespace {

std::uint64_t mapped_pages() {
    std::uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages;
}

class StoreKernels : public StoreTest {
  protected:
    void TearDown() override { without_dontunmap = without_moves = false; }
};

// Before 5.7, and before 5.13 for files: the segment is mapped anew in place of the view.
TEST_F(StoreKernels, WithoutDontunmap) {
    insert_elsewhere(1500, 1);
    const Pages pages(1500);
    fill_pattern(pages, 1);
    pages.page(600)[9] ^= 1; // so that a run begins in the middle of a batch
    ASSERT_EQ(open(), 0) << text;
    without_dontunmap = true;
    asked = 0;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_GT(asked, 0);
    EXPECT_EQ(counts.merged, 1499U);
    EXPECT_EQ(counts.inserted, 1U);
    pages.page(600)[9] ^= 1;
    EXPECT_TRUE(has_pattern(pages, 1));
    fill_pattern(pages, 2);
    EXPECT_TRUE(has_pattern(pages, 2)) << "private: a write is the program's own";
    EXPECT_EQ(in_child([&] {
                  fill_pattern(pages, 1);
                  without_dontunmap = false;
                  return advise(pages) == 0 && counts.merged >= 1499 ? 0 : 1;
              }),
              0)
        << "the segment is what it was";
}

// There may be no more mappings: then it stays merged, and the copy goes.
TEST_F(StoreKernels, WithoutRoomToUnmerge) {
    constexpr std::size_t kPages = 512; // a copy of all of them at a time
    insert_elsewhere(kPages, 1);
    const Pages pages(kPages);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged, kPages);
    EXPECT_EQ(unmerge(Pages(1)), 0); // what it keeps for all later calls
    const std::uint64_t before = mapped_pages();
    without_moves = true;
    asked = 0;
    EXPECT_EQ(unmerge(pages), -ENOMEM);
    EXPECT_GT(asked, 0);
    without_moves = false;
    EXPECT_LT(mapped_pages(), before + kPages);
    EXPECT_TRUE(has_pattern(pages, 1));
    EXPECT_EQ(unmerge(pages), 0);
    EXPECT_EQ(counts.unmerged, kPages);
    EXPECT_TRUE(has_pattern(pages, 1));
}

} // namespace

} // namespace upm::test
