// SPDX-License-Identifier: MIT
#include "libupm/base/descriptor_table.hpp"

#include "libupm/base/close_range.hpp"
#include "libupm/base/sharable_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <iterator>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace upm {

namespace {

[[gnu::tls_model("initial-exec")]] constinit thread_local unsigned table = 0;

// The kernel copies so many descriptors whatever is asked for, and then closes the copies. That
// is nothing to pipes, sockets and files of disks. A queue of POSIX forgets whom to notify, and
// some drivers take it for the end of what the program does with the device. The program behind
// a file system of FUSE is asked, may take it for the end of the writing, and may not answer;
// servers of network file systems may get what was written, and the kernel tells the one that
// closes, and nobody later, of errors.
constexpr int kCopied = 64;

bool file_may_be_closed_twice(int fd) noexcept {
    constexpr std::uint32_t kFuse = 0x65735546; // include/uapi/linux/magic.h
    struct statfs system {};
    if (::syscall(SYS_mq_getsetattr, fd, nullptr, nullptr) == 0 || ::fstatfs(fd, &system) != 0)
        return false;
    const int flags = ::fcntl(fd, F_GETFL);
    const bool writes = flags < 0 || (flags & O_ACCMODE) != O_RDONLY;
    return keeps_pages(static_cast<std::uint64_t>(system.f_type)) ||
           (!writes && static_cast<std::uint32_t>(system.f_type) != kFuse);
}

bool may_be_closed_twice(int fd) noexcept {
    struct stat status {};
    // Whoever serves the file is not asked. Not all that play Linux know how.
    if (::syscall(SYS_newfstatat, fd, "", &status, AT_EMPTY_PATH | AT_STATX_DONT_SYNC) != 0 &&
        (errno != EINVAL || ::fstat(fd, &status) != 0))
        return errno == EBADF;
    switch (status.st_mode & S_IFMT) {
    case S_IFREG: // so is a queue
        return file_may_be_closed_twice(fd);
    case S_IFCHR: {
        constexpr unsigned kMemory = 1; // Documentation/admin-guide/devices.txt
        constexpr unsigned kTerminals[] = {4, 5, 136, 137, 138, 139, 140, 141, 142, 143};
        const unsigned kind = major(status.st_rdev);
        return kind == kMemory || std::find(std::begin(kTerminals), std::end(kTerminals), kind) !=
                                      std::end(kTerminals);
    }
    default:
        return true;
    }
}

bool copies_may_be_closed() noexcept {
    for (int fd = 0; fd < kCopied; ++fd)
        if (!may_be_closed_twice(fd))
            return false;
    return true;
}

} // namespace

unsigned descriptor_table() noexcept {
    return table;
}

bool take_own_table() noexcept {
    constexpr unsigned kUnshare = 2; // CLOSE_RANGE_UNSHARE
    if (table != 0)
        return true;
    if (!copies_may_be_closed() || close_descriptors(0, ~0U, kUnshare) != 0)
        return false;
    table = 1;
    // Who writes to standard error must not write to something else.
    for (int fd = -1; fd < STDERR_FILENO;) {
        fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
            break;
    }
    return true;
}

} // namespace upm
