// SPDX-License-Identifier: MIT
//
// Which descriptors are taken for segments.
#include "libupm/base/system.hpp"
#include "libupm/store/segment.hpp"

#include <cerrno>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <initializer_list>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {
namespace {

constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
constexpr std::uint64_t kPages = 16;

class CheckPublished : public testing::Test {
  protected:
    CheckPublished() : fd_(::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
        EXPECT_EQ(::ftruncate(fd_, at(kPages)), 0);
    }
    ~CheckPublished() override { ::close(fd_); }

    static off_t at(std::uint64_t page) { return static_cast<off_t>(page * page_size()); }
    void write(std::uint64_t page, std::uint64_t pages) const {
        const std::string bytes(pages * page_size(), 'x');
        EXPECT_EQ(::pwrite(fd_, bytes.data(), bytes.size(), at(page)),
                  static_cast<ssize_t>(bytes.size()));
    }
    // What is charged to the file already, and lies behind its end.
    void reserve_behind(std::uint64_t pages) const {
        EXPECT_EQ(::fallocate(fd_, FALLOC_FL_KEEP_SIZE, at(kPages), at(pages)), 0);
    }
    [[nodiscard]] int check() const {
        EXPECT_EQ(::fcntl(fd_, F_ADD_SEALS, kSeals), 0);
        return check_published(fd_, kPages);
    }

    int fd_;
};

TEST_F(CheckPublished, TakesOneThatIsThere) {
    write(0, kPages);
    EXPECT_EQ(check(), 0);
}

TEST_F(CheckPublished, TakesOneWithRoomBehindItsEnd) {
    write(0, kPages);
    reserve_behind(2);
    EXPECT_EQ(check(), 0);
}

TEST_F(CheckPublished, RefusesHoles) {
    write(0, 3);
    write(4, kPages - 4);
    EXPECT_EQ(check(), -EINVAL);
}

TEST_F(CheckPublished, RefusesHolesForWhichThereIsRoomElsewhere) {
    for (const std::uint64_t hole : {std::uint64_t{0}, std::uint64_t{7}, kPages - 1}) {
        const int before = fd_;
        fd_ = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        ::close(before);
        ASSERT_EQ(::ftruncate(fd_, at(kPages)), 0);
        write(0, hole);
        write(hole + 1, kPages - hole - 1);
        reserve_behind(kPages);
        EXPECT_EQ(check(), -EINVAL) << hole;
    }
}

TEST_F(CheckPublished, RefusesAnotherSize) {
    write(0, kPages);
    EXPECT_EQ(check(), 0);
    EXPECT_EQ(check_published(fd_, kPages - 1), -EINVAL);
    EXPECT_EQ(check_published(fd_, kPages + 1), -EINVAL);
}

} // namespace
} // namespace upm::store
