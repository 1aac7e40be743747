// SPDX-License-Identifier: MIT
#include "libupm/store/overlay.hpp"

#include "libupm/base/descriptor_table.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {

namespace {

constexpr int kDontUnmap = 4; // MREMAP_DONTUNMAP, since Linux 5.7; of files since 5.13

} // namespace

void fail_stop() noexcept {
    constexpr char kText[] = "upm: cannot map a merged page again: out of memory for mappings\n";
    const int fd = descriptor_table() == 0
                       ? STDERR_FILENO
                       : ::open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC);
    (void)!::write(fd, kText, sizeof(kText) - 1);
    ::abort();
}

bool map_over(const Overlay &overlay) noexcept {
    constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap;
    void *const at = reinterpret_cast<void *>(overlay.at);
    if (overlay.view != nullptr &&
        ::mremap(overlay.view, overlay.size, overlay.size, kFlags, at) != MAP_FAILED)
        return true;
    const auto map = [&] {
        return ::mmap(at, overlay.size, overlay.protection, MAP_PRIVATE | MAP_FIXED, overlay.fd,
                      static_cast<off_t>(overlay.offset)) != MAP_FAILED;
    };
    if (map())
        return true;
    // If it refuses, it does so before it unmaps, as a rule.
    if (::msync(at, overlay.size, MS_ASYNC) == 0)
        return false;
    // mremap(2) has unmapped what was there before it looked at the program's limits. A view
    // may be mapped in excess of them, since there was a place already: its room is given up.
    if (overlay.view != nullptr)
        (void)::mmap(overlay.view, overlay.size, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (!map())
        fail_stop();
    return true;
}

} // namespace upm::store
