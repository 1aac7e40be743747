// SPDX-License-Identifier: MIT
#include "libupm/mm/vma_reader.hpp"
#include "tests/support/support.hpp"

#include <cerrno>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 8;

// Eight pages with address space around them that is free, or taken.
class VmaProbe : public testing::Test {
  protected:
    void SetUp() override {
        const int maps = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        char query[104] = {};
        const bool unknown = ::ioctl(maps, _IOWR('f', 17, query), query) != 0 && errno == ENOTTY;
        (void)::close(maps);
        if (unknown)
            GTEST_SKIP() << "no PROCMAP_QUERY: before Linux 6.11";
        room_ = static_cast<char *>(
            ::mmap(nullptr, kRoom, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        ASSERT_EQ(::munmap(room_, kRoom), 0);
        map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    }
    void TearDown() override {
        if (data_ != nullptr)
            (void)::munmap(room_, kRoom);
    }
    void map(int flags, int fd) {
        data_ = static_cast<char *>(::mmap(room_ + kRoom / 2, kPages * page_size(),
                                           PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0));
        ASSERT_EQ(data_, room_ + kRoom / 2);
        if (fd < 0)
            data_[0] = 1;
    }
    void take(char *where) {
        ASSERT_NE(::mmap(where, page_size(), PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
                  MAP_FAILED);
    }
    [[nodiscard]] char *after() const { return data_ + kPages * page_size(); }
    [[nodiscard]] char *before() const { return data_ - page_size(); }
    bool plain(std::size_t first = 0, std::size_t count = kPages) {
        const auto start = reinterpret_cast<std::uint64_t>(data_) + first * page_size();
        return find_plain_vma(start, start + count * page_size(), vma);
    }

    static constexpr std::size_t kRoom = 1UL << 20;
    char *room_ = nullptr;
    char *data_ = nullptr;
    Vma vma;
};

TEST_F(VmaProbe, FindsAnOrdinaryMapping) {
    const std::string flags = vm_flags(data_);
    ASSERT_TRUE(plain(2, 3));
    EXPECT_EQ(vma.start, reinterpret_cast<std::uint64_t>(data_));
    EXPECT_EQ(vma.end, reinterpret_cast<std::uint64_t>(after()));
    EXPECT_EQ(vma.flags, 0U);
    EXPECT_EQ(vma.protection, PROT_READ | PROT_WRITE);
    EXPECT_EQ(vm_flags(data_), flags);
    take(after()); // nothing is left there
    take(before());
}

TEST_F(VmaProbe, OneFreeSideSuffices) {
    take(after());
    EXPECT_TRUE(plain());
    take(before());
    EXPECT_FALSE(plain()) << "no side is free, so it cannot be told";
}

TEST_F(VmaProbe, WishesForHugePagesDoNotMatter) {
    for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
        ASSERT_EQ(::madvise(data_, kPages * page_size(), advice), 0);
        const std::string flags = vm_flags(data_);
        EXPECT_TRUE(plain()) << advice;
        EXPECT_EQ(vm_flags(data_), flags);
    }
}

TEST_F(VmaProbe, NoReservationDoesNotMatter) {
    map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    EXPECT_TRUE(plain());
    EXPECT_EQ(vm_flags(data_).find("ac"), std::string::npos) << "as it was";
}

TEST_F(VmaProbe, EveryOtherFlagDoes) {
    const std::size_t size = kPages * page_size();
    for (const int advice : {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK}) {
        ASSERT_EQ(::madvise(data_, size, advice), 0);
        EXPECT_FALSE(plain()) << advice;
        map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
        EXPECT_TRUE(plain()) << "as before " << advice;
    }
    ASSERT_EQ(::mlock(data_, size), 0);
    EXPECT_FALSE(plain()) << "locked";
    ASSERT_EQ(::munlock(data_, size), 0);
    ASSERT_EQ(::mprotect(data_ + page_size(), page_size(), PROT_READ), 0);
    EXPECT_FALSE(plain()) << "three mappings";
}

TEST_F(VmaProbe, LockedLikeEverythingThatIsNew) {
    constexpr int kNoRight = 4;
    const int found = in_child([&] {
        map(MAP_PRIVATE | MAP_ANONYMOUS, -1); // what a fork shares joins with nothing
        if (!plain())
            return 2;
        if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
            return kNoRight;
        return plain() ? 1 : 0;
    });
    if (found == kNoRight)
        GTEST_SKIP() << "may not lock its memory";
    EXPECT_EQ(found, 0);
}

TEST_F(VmaProbe, OtherKindsOfMappings) {
    map(MAP_SHARED | MAP_ANONYMOUS, -1);
    EXPECT_FALSE(plain()) << "shared";
    const int fd = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    map(MAP_PRIVATE, fd);
    (void)::close(fd);
    EXPECT_FALSE(plain()) << "a file";
    map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    EXPECT_FALSE(plain(4, kPages)) << "beyond its end";
    (void)::munmap(data_, kPages * page_size());
    EXPECT_FALSE(plain()) << "nothing at all";
}

} // namespace

} // namespace upm::test
