// SPDX-License-Identifier: MIT
#include "libupm/store_segment.hpp"

#include "libupm/system.hpp"

#include <cerrno>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U // NOLINT(readability-identifier-naming): since Linux 6.3
#endif

namespace upm::store {

namespace {

constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

int create() noexcept {
    int fd = ::memfd_create(kSegmentName, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = ::memfd_create(kSegmentName, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd >= 0 ? fd : -errno;
}

// Beyond this limit the kernel does not only refuse: it sends SIGXFSZ.
bool file_size_allowed(std::uint64_t size) noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
           limit.rlim_cur >= size;
}

} // namespace

int create_segment(std::uint64_t size) noexcept {
    if (!file_size_allowed(size))
        return -EFBIG;
    const int fd = create();
    if (fd < 0)
        return fd;
    int ret = 0;
    do
        ret = ::fallocate(fd, 0, 0, static_cast<off_t>(size)) == 0 ? 0 : -errno;
    while (ret == -EINTR);
    if (ret == 0)
        return fd;
    ::close(fd);
    return ret;
}

// By write(2), not through a mapping: it copies into pages that need no clearing
// first, and it fails with an error where a store would raise SIGBUS.
int fill_segment(int fd, std::uint64_t offset, std::span<const std::byte> bytes) noexcept {
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t put = ::pwrite(fd, bytes.data() + done, bytes.size() - done,
                                     static_cast<off_t>(offset + done));
        if (put > 0)
            done += static_cast<std::size_t>(put);
        else if (put == 0)
            return -EIO;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int seal_segment(int fd) noexcept {
    return ::fcntl(fd, F_ADD_SEALS, kSeals) == 0 ? 0 : -errno;
}

int check_segment(int fd, std::uint64_t pages) noexcept {
    constexpr std::uint64_t kBlock = 512; // what st_blocks counts
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return errno == EBADF ? -EBADF : -EINVAL; // no memfd
    constexpr int kNeeded = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
    if ((seals & kNeeded) != kNeeded)
        return -EPERM;
    struct stat status {};
    struct statfs system {};
    if (::fstat(fd, &status) != 0 || ::fstatfs(fd, &system) != 0)
        return -errno;
    const std::uint64_t size = pages * page_size();
    if (!S_ISREG(status.st_mode) || system.f_type != TMPFS_MAGIC ||
        static_cast<std::uint64_t>(status.st_size) != size ||
        static_cast<std::uint64_t>(status.st_blocks) * kBlock < size)
        return -EINVAL;
    return 0;
}

} // namespace upm::store
