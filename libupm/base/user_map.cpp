// SPDX-License-Identifier: MIT
#include "libupm/base/user_map.hpp"

#include <charconv>
#include <cstdint>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

namespace upm::user_map {

namespace {

constexpr uid_t kDefaultOverflow = 65534; // of the kernel

// Numbers of a small file in /proc, in order; how many there are.
int read_numbers(const char *path, std::uint64_t *numbers, int most) noexcept {
    char text[512];
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, text, sizeof(text)) : -1;
    if (fd >= 0)
        ::close(fd);
    const char *at = text;
    const char *const end = text + (got > 0 ? got : 0);
    int count = 0;
    while (at < end && count < most) {
        const auto [next, error] = std::from_chars(at, end, numbers[count]);
        if (error == std::errc()) {
            ++count;
            at = next;
        } else {
            ++at;
        }
    }
    return count;
}

// The map of a namespace that knows every user is one line: "0 0 4294967295".
bool knows_all() noexcept {
    constexpr std::uint64_t kAll = 4'294'967'295;
    std::uint64_t map[4];
    return read_numbers("/proc/self/uid_map", map, 4) == 3 && map[0] == 0 && map[1] == 0 &&
           map[2] == kAll;
}

} // namespace

bool is_ambiguous(uid_t uid) noexcept {
    std::uint64_t overflow = kDefaultOverflow;
    if (read_numbers("/proc/sys/kernel/overflowuid", &overflow, 1) != 1)
        overflow = kDefaultOverflow;
    return uid == overflow && !knows_all();
}

} // namespace upm::user_map
