// SPDX-License-Identifier: MIT
#include "libupm/mm/pagemap.hpp"

#include "libupm/base/system.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace upm {

namespace {

// From the kernel's include/uapi/linux/fs.h, which Debian 12 has of an earlier release.
struct PageRegion {
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t categories;
};

struct ScanArguments {
    std::uint64_t size;
    std::uint64_t flags;
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t walk_end;
    std::uint64_t vec;
    std::uint64_t vec_len;
    std::uint64_t max_pages;
    std::uint64_t category_inverted;
    std::uint64_t category_mask;
    std::uint64_t category_anyof_mask;
    std::uint64_t return_mask;
};
static_assert(sizeof(ScanArguments) == 96);

constexpr unsigned long kScan = _IOWR('f', 16, ScanArguments); // PAGEMAP_SCAN
constexpr std::uint64_t kIsPresent = 1U << 3U;                 // PAGE_IS_PRESENT

} // namespace

PageMap::PageMap() noexcept : PageMap(kThisProcess) {
    if (shows_memory())
        return;
    if (fd_ >= 0)
        ::close(fd_);
    fd_ = ::open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
    error_ = fd_ < 0 ? -errno : 0;
}

PageMap::PageMap(const char *path) noexcept : fd_(::open(path, O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0)
        error_ = -errno;
}

PageMap::~PageMap() {
    if (fd_ >= 0)
        ::close(fd_);
}

bool PageMap::shows_memory() const noexcept {
    std::uint64_t entry = 0;
    return read(reinterpret_cast<std::uintptr_t>(&entry), 1, &entry) == 0;
}

int PageMap::read(std::uint64_t start, std::uint32_t pages, std::uint64_t *entries) const noexcept {
    const std::size_t size = pages * sizeof(*entries);
    const auto offset = static_cast<off_t>(start / page_size() * sizeof(*entries));
    const ssize_t got = ::pread(fd_, entries, size, offset);
    if (got == static_cast<ssize_t>(size))
        return 0;
    return got < 0 ? -errno : -EIO;
}

bool PageMap::all_present(std::uint64_t start, std::uint64_t size) const noexcept {
    PageRegion first{};
    ScanArguments scan{};
    scan.size = sizeof(scan);
    scan.start = start;
    scan.end = start + size;
    scan.vec = reinterpret_cast<std::uint64_t>(&first);
    scan.vec_len = 1;
    scan.category_mask = kIsPresent;
    scan.return_mask = kIsPresent;
    return ::ioctl(fd_, kScan, &scan) == 1 && first.start == start && first.end == start + size;
}

} // namespace upm
