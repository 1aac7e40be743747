// SPDX-License-Identifier: MIT
//
// Parts of segments over memory of a program that has none to spare.
#include "libupm/store/overlay.hpp"

#include "tests/support/support.hpp"

#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace upm::test {
namespace {

constexpr std::size_t kSize = 4UL << 20U;

// Bytes of the data of this process, as RLIMIT_DATA counts them.
std::size_t data_now() {
    std::size_t pages = 0;
    std::ifstream file("/proc/self/statm");
    for (int field = 0; field <= 5; ++field)
        file >> pages;
    return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// mremap(2) unmaps the place before it looks at the limit, which the view is in excess of.
TEST(Overlay, AtTheLimitOfData) {
    const std::string content(kSize, 'u');
    const int fd = ::memfd_create("overlay", MFD_CLOEXEC);
    ASSERT_EQ(::write(fd, content.data(), kSize), static_cast<ssize_t>(kSize));
    EXPECT_EQ(
        in_child([&] {
            constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
            constexpr int kProtection = PROT_READ | PROT_WRITE;
            void *const at = ::mmap(nullptr, kSize, kProtection, kPrivate, -1, 0);
            void *const place = ::mmap(nullptr, kSize, PROT_NONE, kPrivate, -1, 0);
            const rlimit limit{.rlim_cur = data_now(), .rlim_max = data_now()};
            if (at == MAP_FAILED || place == MAP_FAILED || ::setrlimit(RLIMIT_DATA, &limit) != 0)
                return 1;
            void *const view = ::mmap(place, kSize, kProtection, MAP_PRIVATE | MAP_FIXED, fd, 0);
            if (view == MAP_FAILED)
                return 77; // a kernel that does not allow the excess
            const bool mapped = store::map_over({.at = reinterpret_cast<std::uint64_t>(at),
                                                 .size = kSize,
                                                 .fd = fd,
                                                 .offset = 0,
                                                 .protection = kProtection,
                                                 .view = static_cast<std::byte *>(view)});
            return mapped && std::memcmp(at, content.data(), kSize) == 0 ? 0 : 2;
        }) % 77,
        0);
    ::close(fd);
}

} // namespace
} // namespace upm::test
