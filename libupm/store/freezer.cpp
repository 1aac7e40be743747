// SPDX-License-Identifier: MIT
#include "libupm/store/freezer.hpp"

#include <cerrno>
#include <fcntl.h>
#include <initializer_list>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) // since Linux 6.1
#endif

namespace upm::store {

namespace {

constexpr std::uint64_t kUnpopulated = 1U << 13U; // UFFD_FEATURE_WP_UNPOPULATED
constexpr int kOpenFlags = O_CLOEXEC | O_NONBLOCK;

int new_userfaultfd(int flags) noexcept {
    const long fd = ::syscall(SYS_userfaultfd, flags);
    return fd >= 0 ? static_cast<int>(fd) : -errno;
}

int from_device() noexcept {
    const int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -errno;
    const int fd = ::ioctl(device, USERFAULTFD_IOC_NEW, kOpenFlags);
    const int error = errno;
    ::close(device);
    return fd >= 0 ? fd : -error;
}

int new_descriptor(FreezeMode mode) noexcept {
    int fd = -1;
    if (mode == FreezeMode::kUser) {
        fd = new_userfaultfd(kOpenFlags | UFFD_USER_MODE_ONLY);
    } else {
        fd = new_userfaultfd(kOpenFlags);
        if (fd == -EPERM)
            fd = from_device();
    }
    return fd;
}

// A descriptor that can write-protect, or -errno.
int open_userfaultfd(FreezeMode mode, bool &complete) noexcept {
    for (const std::uint64_t features : {kUnpopulated, std::uint64_t{0}}) {
        const int fd = new_descriptor(mode);
        if (fd < 0)
            return fd;
        uffdio_api api{};
        api.api = UFFD_API;
        api.features = features; // the kernel refuses those that it does not know
        if (::ioctl(fd, UFFDIO_API, &api) == 0 &&
            (api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) != 0) {
            complete = features != 0;
            return fd;
        }
        ::close(fd);
    }
    return -EOPNOTSUPP;
}

} // namespace

const char *freeze_mode_name(FreezeMode mode) noexcept {
    switch (mode) {
    case FreezeMode::kKernel:
        return "userfaultfd";
    case FreezeMode::kUser:
        return "userfaultfd (user mode only)";
    case FreezeMode::kProtect:
        return "mprotect";
    }
    return "?";
}

FreezeMode find_freeze_mode() noexcept {
    for (const FreezeMode mode : {FreezeMode::kKernel, FreezeMode::kUser}) {
        bool complete = false;
        const int fd = open_userfaultfd(mode, complete);
        if (fd < 0)
            continue;
        ::close(fd);
        return mode;
    }
    return FreezeMode::kProtect;
}

Freezer::~Freezer() {
    if (fd_ >= 0)
        ::close(fd_);
}

int Freezer::begin(std::uint64_t start, std::uint64_t size, int protection) noexcept {
    start_ = start;
    size_ = size;
    protection_ = protection;
    if (mode_ == FreezeMode::kProtect)
        return 0;
    if (fd_ < 0) {
        const int fd = open_userfaultfd(mode_, complete_);
        if (fd < 0)
            return fd;
        fd_ = fd;
    }
    uffdio_register range{};
    range.range = {.start = start, .len = size};
    range.mode = UFFDIO_REGISTER_MODE_WP;
    return ::ioctl(fd_, UFFDIO_REGISTER, &range) == 0 ? 0 : -errno;
}

// Not by close(2) alone: a child that was forked meanwhile has the descriptor, too.
void Freezer::end() noexcept {
    if (mode_ == FreezeMode::kProtect)
        return;
    uffdio_range range{.start = start_, .len = size_};
    (void)::ioctl(fd_, UFFDIO_UNREGISTER, &range);
}

void Freezer::drop() noexcept {
    if (fd_ >= 0)
        ::close(fd_);
    fd_ = -1;
}

int Freezer::protection() const noexcept {
    return mode_ == FreezeMode::kProtect ? protection_ & ~PROT_WRITE : protection_;
}

int Freezer::freeze(std::uint64_t start, std::uint64_t size) noexcept {
    if (mode_ == FreezeMode::kProtect) {
        void *const addr = reinterpret_cast<void *>(start);
        return ::mprotect(addr, size, protection()) == 0 ? 0 : -errno;
    }
    uffdio_writeprotect protect{};
    protect.range = {.start = start, .len = size};
    protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    return ::ioctl(fd_, UFFDIO_WRITEPROTECT, &protect) == 0 ? 0 : -errno;
}

void Freezer::thaw(std::uint64_t start, std::uint64_t size) const noexcept {
    if (mode_ == FreezeMode::kProtect) {
        (void)::mprotect(reinterpret_cast<void *>(start), size, protection_);
        return;
    }
    uffdio_writeprotect protect{};
    protect.range = {.start = start, .len = size};
    // EAGAIN: the address space is about to change in another thread (fork).
    while (::ioctl(fd_, UFFDIO_WRITEPROTECT, &protect) != 0 && errno == EAGAIN)
        ;
}

void Freezer::wake(std::uint64_t start, std::uint64_t size) const noexcept {
    if (mode_ == FreezeMode::kProtect)
        return;
    uffdio_range range{.start = start, .len = size};
    (void)::ioctl(fd_, UFFDIO_WAKE, &range);
}

} // namespace upm::store
