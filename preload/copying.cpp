// SPDX-License-Identifier: MIT
#include "preload/copying.hpp"

#include "libupm/base/sharable_file.hpp"
#include "preload/lines.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace upm::hook {

namespace {

enum class Found : std::uint8_t { kCopies, kOther, kNowhere };

// "36 35 98:0 /root /where rw,noatime master:1 - ext3 /dev/root rw": the first number is the
// mount's, and blanks in names are written as \040.
Found look_up(int mount) noexcept {
    Lines lines("/proc/self/mountinfo");
    for (std::string_view line; lines.next(line);) {
        int number = -1;
        (void)std::from_chars(line.data(), line.data() + line.size(), number);
        if (number != mount)
            continue;
        constexpr std::string_view kBefore = " - ";
        const std::size_t at = line.find(kBefore);
        if (at == std::string_view::npos)
            return Found::kOther; // a name that is too long
        line.remove_prefix(at + kBefore.size());
        return copies(line.substr(0, line.find(' '))) ? Found::kCopies : Found::kOther;
    }
    return Found::kNowhere;
}

// What is mounted nowhere where this process sees it: memory of System V, queues of
// POSIX, namespaces, and files of another container, say.
bool copies_by_number(const char *file) noexcept {
    constexpr std::uint32_t kKinds[] = {
        // include/uapi/linux/magic.h
        0x958458f6, // hugetlbfs
        0x19800202, // mqueue
        0x6e736673, // nsfs
        0x50494446, // pidfs
        0x9fa0,     // proc
        0x62656572, // sysfs
        0x27e0eb,   // cgroup
        0x63677270, // cgroup2
    };
    struct statfs system {};
    if (::syscall(SYS_statfs, file, &system) != 0)
        return false;
    const auto type = static_cast<std::uint32_t>(system.f_type);
    return keeps_pages(type) ||
           std::find(std::begin(kKinds), std::end(kKinds), type) != std::end(kKinds);
}

} // namespace

bool copies(std::string_view file_system) noexcept {
    constexpr std::string_view kNames[] = {
        // What sharable_file.cpp knows by number, and other disks.
        "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "ramfs", "rootfs", "overlay",
        "erofs", "squashfs", "zfs", "bcachefs", "vfat", "exfat", "ntfs3", "iso9660", "udf", "jfs",
        "reiserfs", "nilfs2", "minix", "hfsplus", "cramfs", "romfs",
        // Over the network, but by pages that they keep, without O_DIRECT.
        "nfs", "nfs4",
        // Of the kernel itself.
        "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs",
        "tracefs", "configfs", "pstore", "bpf", "efivarfs", "mqueue", "hugetlbfs", "nsfs",
        "binfmt_misc", "selinuxfs", "resctrl"};
    return std::find(std::begin(kNames), std::end(kNames), file_system) != std::end(kNames);
}

namespace {

// Mounts that were looked up: the number, doubled, and one more where the kernel answers. What is
// crowded out is looked up again. One that took the number of another is at worst asked, or not
// shared.
constinit std::array<std::atomic<std::uint64_t>, 16> answers{};

int mount_of(int fd) noexcept {
    constexpr unsigned kMountId = 0x1000; // STATX_MNT_ID, since Linux 5.8; not in older headers
    constexpr std::size_t kIdAt = 0x90;   // of stx_mnt_id
    alignas(8) char status[256] = {};
    std::uint32_t mask = 0;
    std::uint64_t number = 0;
    if (::syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, kMountId, status) == 0)
        std::memcpy(&mask, status, sizeof(mask));
    std::memcpy(&number, status + kIdAt, sizeof(number));
    if ((mask & kMountId) != 0)
        return static_cast<int>(number);
    char path[40];
    (void)std::snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
    unsigned long mount = 0;
    Lines lines(path);
    for (std::string_view line; lines.next(line);)
        if (read_field(line, "mnt_id:", mount, 10))
            return static_cast<int>(mount);
    return -1;
}

} // namespace

bool kernel_answers(int fd) noexcept {
    const int mount = mount_of(fd);
    if (mount < 0)
        return false;
    const std::uint64_t known = static_cast<std::uint64_t>(mount) * 2 + 2;
    std::atomic<std::uint64_t> &answer = answers[static_cast<unsigned>(mount) % answers.size()];
    const std::uint64_t seen = answer.load(std::memory_order_relaxed);
    if ((seen | 1U) == (known | 1U))
        return (seen & 1U) != 0;
    const bool kernel = look_up(mount) != Found::kOther;
    answer.store(known | (kernel ? 1U : 0U), std::memory_order_relaxed);
    return kernel;
}

bool CopyingMounts::knows(int mount) const noexcept {
    return std::find(mounts_, mounts_ + count_, mount) != mounts_ + count_;
}

bool CopyingMounts::find(int mount, const char *file) noexcept {
    if (knows(mount))
        return true;
    const Found found = look_up(mount);
    if (found == Found::kOther || (found == Found::kNowhere && !copies_by_number(file)))
        return false;
    if (count_ < kMost)
        mounts_[count_++] = mount;
    return true;
}

} // namespace upm::hook
