// SPDX-License-Identifier: MIT
//
// The hooked functions that read files. Each costs a program that reads small pieces one
// comparison. None is noexcept: a thread may be cancelled in the real ones. Streams
// (fread) are not hooked: what was pushed back into one (ungetc) is in libc's hands; nor are
// vectors (readv), which only the kernel can look at without harm.
#include "preload/enable.hpp"
#include "preload/loads.hpp"
#include "preload/real.hpp"

#include <cstddef>
#include <sys/syscall.h>
#include <unistd.h>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

using namespace upm::hook; // NOLINT(google-build-using-namespace): the hooks are C functions

UPM_HOOK ssize_t read(int fd, void *buffer, std::size_t len) {
    ssize_t got = 0;
    if (may_load(len) && load_here(fd, buffer, len, got)) [[unlikely]]
        return got;
    if (!ready()) [[unlikely]]
        return ::syscall(SYS_read, fd, buffer, len);
    return real().read(fd, buffer, len);
}

UPM_HOOK ssize_t pread(int fd, void *buffer, std::size_t len, off_t offset) {
    ssize_t got = 0;
    if (may_load(len) && load_at(fd, offset, buffer, len, got)) [[unlikely]]
        return got;
    if (!ready()) [[unlikely]]
        return ::syscall(SYS_pread64, fd, buffer, len, offset);
    return real().pread(fd, buffer, len, offset);
}

UPM_HOOK ssize_t pread64(int fd, void *buffer, std::size_t len, off_t offset) {
    return ::pread(fd, buffer, len, offset);
}
