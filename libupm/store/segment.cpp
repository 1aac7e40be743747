// SPDX-License-Identifier: MIT
#include "libupm/store/segment.hpp"

#include "libupm/base/system.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <utility>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U // NOLINT(readability-identifier-naming): since Linux 6.3
#endif

namespace upm::store {

namespace {

constexpr int kCollapse = 25; // MADV_COLLAPSE, since Linux 6.1
constexpr std::uint64_t kSmallPage = 4096;
std::atomic<bool> collapse_refused{false};
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

int memfd() noexcept {
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

SegmentWriter::~SegmentWriter() {
    if (fd_ >= 0)
        ::close(fd_);
}

int SegmentWriter::create(std::uint64_t size, std::uint32_t huge_runs) noexcept {
    if (!file_size_allowed(size))
        return -EFBIG;
    const int fd = memfd();
    if (fd < 0)
        return fd;
    fd_ = fd;
    if (::ftruncate(fd, static_cast<off_t>(size)) != 0)
        return -errno;
    const std::uint64_t wanted = huge_runs * kHugePage;
    if (wanted != 0 && view_.reserve(wanted) &&
        ::mmap(view_.data(), wanted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
            MAP_FAILED) {
        view_size_ = wanted;
        // A child would keep it, and what is mapped for writing cannot be sealed.
        (void)::madvise(view_.data(), wanted, MADV_DONTFORK);
    }
    return 0;
}

// Gives some huge runs their pages, which the kernel does only where there is a page already.
// 0 or -errno.
int SegmentWriter::collapse(std::uint64_t offset, std::uint64_t size) noexcept {
    constexpr char kByte = 0;
    for (std::uint64_t at = offset; at < offset + size; at += kHugePage)
        if (::pwrite(fd_, &kByte, 1, static_cast<off_t>(at)) != 1)
            return -errno;
    if (::madvise(view_.data() + offset, size, kCollapse) != 0)
        return -errno;
    huge_ = offset + size;
    return 0;
}

// With each call the kernel has all processors give up pages that they hold back, and
// waits for them; on a busy machine that takes longer than copying. So all huge runs at
// once, and one by one only if the control group has no room for all. If the kernel finds
// no huge page, which takes it a while, it is not asked again for this segment.
int SegmentWriter::reserve_huge(std::uint64_t offset) noexcept {
    if (offset + kHugePage <= huge_)
        return 0;
    int ret = offset == 0 ? collapse(0, view_size_) : -EBUSY;
    if (ret == -EBUSY)
        ret = collapse(offset, kHugePage);
    if (ret == -EINVAL) // not this kernel, or not as it is set
        collapse_refused.store(true, std::memory_order_relaxed);
    return ret;
}

int SegmentWriter::reserve(std::uint64_t offset, std::uint64_t size) noexcept {
    // What is behind a huge run without a huge page has none either.
    if (offset + size <= view_size_ && size == kHugePage && offset <= huge_) {
        const int ret = reserve_huge(offset);
        if (ret == 0)
            return 0;
        if (ret == -EBUSY) // the control group is full: small pages would get us killed
            return -ENOMEM;
    }
    int ret = 0;
    do
        ret = ::fallocate(fd_, 0, static_cast<off_t>(offset), static_cast<off_t>(size)) == 0
                  ? 0
                  : -errno;
    while (ret == -EINTR);
    return ret;
}

int SegmentWriter::cut(std::uint64_t size) const noexcept {
    return ::ftruncate(fd_, static_cast<off_t>(size)) == 0 ? 0 : -errno;
}

// Ordinary pages by write(2), not through a mapping: it copies into pages that need no
// clearing first, and takes no fault for each.
int SegmentWriter::fill(std::uint64_t offset, std::span<const std::byte> bytes) const noexcept {
    if (offset + bytes.size() <= huge_) {
        std::memcpy(view_.data() + offset, bytes.data(), bytes.size());
        return 0;
    }
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t put = ::pwrite(fd_, bytes.data() + done, bytes.size() - done,
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

std::span<std::byte> SegmentWriter::room(std::uint64_t offset, std::size_t size) const noexcept {
    if (offset + size > huge_)
        return {};
    return {view_.data() + offset, size};
}

int SegmentWriter::seal() noexcept {
    view_.reset(); // no file that is mapped for writing can be sealed
    return ::fcntl(fd_, F_ADD_SEALS, kSeals) == 0 ? 0 : -errno;
}

int SegmentWriter::release() noexcept {
    view_.reset();
    return std::exchange(fd_, -1);
}

bool huge_segments() noexcept {
    return page_size() == kSmallPage && !collapse_refused.load(std::memory_order_relaxed);
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

int check_published(int fd, std::uint64_t pages) noexcept {
    const int ret = check_segment(fd, pages);
    if (ret != 0)
        return ret;
    const auto size = static_cast<off_t>(pages * page_size());
    return ::lseek(fd, 0, SEEK_HOLE) == size ? 0 : -EINVAL;
}

} // namespace upm::store
