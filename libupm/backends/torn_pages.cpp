// SPDX-License-Identifier: MIT
//
// MADV_COLD splits a torn huge page of which it is given a part (madvise_cold_or_
// pageout_pte_range() in mm/madvise.c, 5.4 to 6.12): so it is given page by page.
#include "libupm/backends/torn_pages.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace upm {

namespace {

// Not in Debian 12's C library.
int pidfd_open(int pid) noexcept {
    return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
}

// Bytes advised, or -1: it stops at the first page that cannot be.
long process_cold(int pidfd, const iovec *pages, std::size_t count) noexcept {
    return ::syscall(SYS_process_madvise, pidfd, pages, count, MADV_COLD, 0);
}

void *pointer(std::uint64_t addr) noexcept {
    return reinterpret_cast<void *>(addr); // NOLINT(performance-no-int-to-ptr)
}

void split_own(std::uint64_t addr, std::uint64_t end, std::size_t page_size) noexcept {
    for (; addr < end; addr += page_size)
        (void)::madvise(pointer(addr), page_size, MADV_COLD);
}

void split_other(int pidfd, std::uint64_t addr, std::uint64_t end, std::size_t page_size) noexcept {
    std::array<iovec, 256> pages; // NOLINT(cppcoreguidelines-pro-type-member-init)
    while (addr < end) {
        const std::size_t count = std::min<std::uint64_t>(pages.size(), (end - addr) / page_size);
        for (std::size_t i = 0; i < count; ++i)
            pages[i] = {.iov_base = pointer(addr + i * page_size), .iov_len = page_size};
        const long done = process_cold(pidfd, pages.data(), count);
        if (done < 0 && errno != EINVAL && errno != ENOMEM)
            return; // no right, no such process, no such system call
        // The page at which it stopped is passed over.
        const std::uint64_t next = done > 0 ? static_cast<std::uint64_t>(done) : page_size;
        addr += next;
    }
}

} // namespace

void split_huge_pages(int pid, std::uint64_t addr, std::uint64_t len) noexcept {
    const int saved = errno;
    const auto page_size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    if (pid == 0) {
        split_own(addr, addr + len, page_size);
    } else if (const int pidfd = pidfd_open(pid); pidfd >= 0) {
        split_other(pidfd, addr, addr + len, page_size);
        (void)::close(pidfd);
    }
    errno = saved;
}

} // namespace upm
