// SPDX-License-Identifier: MIT
#include "libupm/mm/limits.hpp"

#include "libupm/base/system.hpp"
#include "libupm/mm/vma_reader.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>

namespace upm {

namespace {

// A load maps 20 MiB for as long as it lasts, and so does who merges.
constexpr std::uint64_t kRoom = 256UL << 20U;

bool is_far(std::uint64_t pages, std::uint64_t limit) noexcept {
    return limit == RLIM_INFINITY || pages * page_size() + kRoom <= limit;
}

std::uint64_t limit_of(decltype(RLIMIT_AS) kind) noexcept {
    rlimit limit{};
    return ::getrlimit(kind, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

} // namespace

bool far_from_limits() noexcept {
    const std::uint64_t space = limit_of(RLIMIT_AS);
    const std::uint64_t data = limit_of(RLIMIT_DATA);
    if (space == RLIM_INFINITY && data == RLIM_INFINITY)
        return true;
    // Pages of the address space; resident, shared, of code, of nothing; of data and stacks.
    constexpr int kData = 5;
    char path[40];
    char text[128];
    (void)std::snprintf(path, sizeof(path), "%s/statm", own_proc());
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, text, sizeof(text)) : -1;
    if (fd >= 0)
        ::close(fd);
    const char *at = text;
    const char *const end = text + std::max<ssize_t>(got, 0);
    for (int field = 0; field <= kData; ++field) {
        std::uint64_t pages = 0;
        const auto [rest, error] = std::from_chars(at, end, pages);
        const std::uint64_t limit = field == 0 ? space : field == kData ? data : RLIM_INFINITY;
        if (error != std::errc() || !is_far(pages, limit))
            return false;
        at = rest == end ? rest : rest + 1;
    }
    return true;
}

} // namespace upm
