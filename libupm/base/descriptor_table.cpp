// SPDX-License-Identifier: MIT
#include "libupm/base/descriptor_table.hpp"

#include "libupm/base/close_range.hpp"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace upm {

namespace {

[[gnu::tls_model("initial-exec")]] constinit thread_local unsigned table = 0;

// The kernel copies so many descriptors whatever is asked for, and then closes the copies. That
// is nothing to pipes, sockets and files of disks. A queue of POSIX forgets whom to notify, and
// some drivers take it for the end of what the program does with the device.
constexpr int kCopied = 64;

bool may_be_closed_twice(int fd) noexcept {
    struct stat status {};
    if (::fstat(fd, &status) != 0)
        return errno == EBADF;
    switch (status.st_mode & S_IFMT) {
    case S_IFREG: // so is a queue
        return ::syscall(SYS_mq_getsetattr, fd, nullptr, nullptr) != 0;
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
