// SPDX-License-Identifier: MIT
//
// What few programs do to the file that is loaded.
#include "tests/preload/odd.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>

namespace odd {

namespace {

std::atomic<int> told{0};

} // namespace

// A lease says that nobody else has the file open: to open it once more would break it, and
// wait for the holder, which is this very process.
int lease() {
    std::free(load());
    (void)std::signal(SIGIO, [](int) { ++told; });
    const int fd = ::open(path, O_RDWR | O_CLOEXEC);
    UPM_CHECK(fd >= 0);
    bool leased = false;
    for (int i = 0; i < 500 && !leased; ++i) { // the broker closes the file soon
        leased = ::fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
        if (!leased)
            sleep_ms(10);
    }
    if (!leased)
        return kNothingTried;
    // Another part, which is not known yet.
    char *const block = allocate(kBlock);
    UPM_CHECK(::pread(fd, block, kBlock, 1234) > 0);
    UPM_CHECK(told == 0);
    UPM_CHECK(::fcntl(fd, F_GETLEASE) == F_WRLCK);
    return 0;
}

// To open a file once more, and to close that, gives up all locks that a process has on it.
int locks() {
    std::free(load());
    const int fd = ::open(path, O_RDWR | O_CLOEXEC);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    UPM_CHECK(fd >= 0 && ::fcntl(fd, F_SETLK, &lock) == 0);
    // Parts that are not known yet, by a descriptor that is not closed before the end.
    const int other = ::open(path, O_RDONLY | O_CLOEXEC);
    UPM_CHECK(::pread(other, allocate(kBlock), kBlock, 1234) == kBlock);
    const auto locked_out = [&] {
        return in_child([&] { return ::fcntl(fd, F_SETLK, &lock) != 0 ? 0 : 1; }) == 0;
    };
    UPM_CHECK(locked_out());
    lock.l_type = F_UNLCK;
    UPM_CHECK(::fcntl(fd, F_SETLK, &lock) == 0);
    lock.l_type = F_WRLCK;
    UPM_CHECK(!locked_out());
    return 0;
}

} // namespace odd
