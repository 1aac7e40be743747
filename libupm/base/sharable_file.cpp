// SPDX-License-Identifier: MIT
#include "libupm/base/sharable_file.hpp"

#include <algorithm>
#include <fcntl.h>
#include <iterator>
#include <sys/stat.h>
#include <sys/vfs.h>

namespace upm {

bool keeps_pages(std::uint64_t system) noexcept {
    // From the kernel's include/uapi/linux/magic.h and the file systems' own sources.
    constexpr std::uint32_t kKinds[] = {
        0xef53,     // ext2, ext3, ext4
        0x58465342, // XFS
        0x9123683e, // btrfs
        0xf2f52010, // F2FS
        0x01021994, // tmpfs
        0x858458f6, // ramfs
        0x794c7630, // overlayfs
        0xe0f5e1e2, // EROFS
        0x73717368, // SquashFS
        0x2fc12fc1, // ZFS
        0xca451a4e, // bcachefs
    };
    return std::find(std::begin(kKinds), std::end(kKinds), static_cast<std::uint32_t>(system)) !=
           std::end(kKinds);
}

std::uint64_t sharable_size(int fd) noexcept {
    const int flags = ::fcntl(fd, F_GETFL);
    struct stat status {};
    struct statfs system {};
    if (flags < 0 || (flags & (O_DIRECT | O_PATH)) != 0 || (flags & O_ACCMODE) == O_WRONLY ||
        ::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size <= 0 ||
        ::fcntl(fd, F_GETLEASE) == F_WRLCK || ::fstatfs(fd, &system) != 0)
        return 0;
    return keeps_pages(static_cast<std::uint64_t>(system.f_type))
               ? static_cast<std::uint64_t>(status.st_size)
               : 0;
}

// Asked for in the name of the open file, the kernel names the process's own locks, too.
bool may_be_opened_anew(int fd) noexcept {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

} // namespace upm
