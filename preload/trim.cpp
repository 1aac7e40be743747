// SPDX-License-Identifier: MIT
#include "preload/trim.hpp"

#include "preload/blocks.hpp"
#include "preload/page.hpp"
#include "preload/pass.hpp"
#include "preload/real.hpp"

#include <atomic>
#include <charconv>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

namespace upm::hook {

namespace {

constexpr std::uint64_t kTrimPauseNs = 10'000'000'000;

constinit std::atomic<std::uint64_t> next_trim{UINT64_MAX};

// Resident memory; 0 if unknown.
std::uint64_t resident_bytes() noexcept {
    char text[128];
    const int fd = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    const ssize_t got = ::read(fd, text, sizeof(text));
    ::close(fd);
    if (got <= 0)
        return 0;
    std::string_view rest(text, static_cast<std::size_t>(got));
    const std::size_t blank = rest.find(' ');
    if (blank == std::string_view::npos)
        return 0;
    rest.remove_prefix(blank + 1);
    std::uint64_t pages = 0;
    (void)std::from_chars(rest.data(), rest.data() + rest.size(), pages);
    return pages * kPageSize;
}

} // namespace

std::uint64_t trim(bool forced) noexcept {
    static constinit std::uint64_t last = 0;
    if (!forced && last != 0 && now_ns() - last < kTrimPauseNs) {
        next_trim = last + kTrimPauseNs;
        return 0;
    }
    last = now_ns();
    next_trim = UINT64_MAX;
    const std::uint64_t before = resident_bytes();
    (void)drop_cache();
    if (real().malloc_trim != nullptr)
        (void)real().malloc_trim(0);
    const std::uint64_t after = resident_bytes();
    return before > after ? before - after : 0;
}

std::uint64_t next_trim_ns() noexcept {
    return next_trim.load();
}

} // namespace upm::hook
