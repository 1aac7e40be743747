// SPDX-License-Identifier: MIT
//
// The hooked functions that read files by their descriptors. Each costs a program that
// reads small pieces one comparison and a jump. None is noexcept: a thread may be cancelled
// in the real ones, and before a large read, which may be served here. stream_hooks.cpp has
// those of streams.
//
// Programs that were built with _FORTIFY_SOURCE call the variants with the room that there
// is for what is read; what does not fit is for the real ones, which end the program.
#include "preload/enable.hpp"
#include "preload/loads.hpp"
#include "preload/real.hpp"

#include <cerrno>
#include <cstddef>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

using namespace upm::hook; // NOLINT(google-build-using-namespace): the hooks are C functions

namespace {

// Out of line, so that the hooks need no frame: a small read is a jump to the real one.

[[gnu::noinline]] ssize_t read_large(int fd, void *buffer, std::size_t len) {
    ::pthread_testcancel();
    const iovec whole{.iov_base = buffer, .iov_len = len};
    ssize_t got = 0;
    return may_load(len) && load_here(fd, &whole, 1, got) ? got : real().read(fd, buffer, len);
}

[[gnu::noinline]] ssize_t pread_large(int fd, void *buffer, std::size_t len, off_t offset) {
    ::pthread_testcancel();
    const iovec whole{.iov_base = buffer, .iov_len = len};
    ssize_t got = 0;
    return may_load(len) && load_at(fd, offset, &whole, 1, got)
               ? got
               : real().pread(fd, buffer, len, offset);
}

bool readv_large(int fd, const iovec *vector, int count, ssize_t &got) {
    ::pthread_testcancel();
    return may_load_vector(vector, count) && load_here(fd, vector, count, got);
}

bool preadv_large(int fd, const iovec *vector, int count, off_t offset, ssize_t &got) {
    ::pthread_testcancel();
    return may_load_vector(vector, count) && load_at(fd, offset, vector, count, got);
}

[[gnu::noinline]] ssize_t readv_some(int fd, const iovec *vector, int count) {
    ssize_t got = 0;
    return readv_large(fd, vector, count, got) ? got : real().readv(fd, vector, count);
}

[[gnu::noinline]] ssize_t preadv_some(int fd, const iovec *vector, int count, off_t offset) {
    ssize_t got = 0;
    return preadv_large(fd, vector, count, offset, got) ? got
                                                        : real().preadv(fd, vector, count, offset);
}

// Where libc has no such function (preadv2 came with glibc 2.26).
ssize_t preadv_by_kernel(int fd, const iovec *vector, int count, off_t offset, int flags) {
    return ::syscall(SYS_preadv2, fd, vector, count, offset, 0L, flags);
}

} // namespace

UPM_HOOK ssize_t read(int fd, void *buffer, std::size_t len) {
    if (is_large(len)) [[unlikely]]
        return read_large(fd, buffer, len);
    return real().read(fd, buffer, len);
}

UPM_HOOK ssize_t pread(int fd, void *buffer, std::size_t len, off_t offset) {
    if (is_large(len)) [[unlikely]]
        return pread_large(fd, buffer, len, offset);
    return real().pread(fd, buffer, len, offset);
}

UPM_HOOK ssize_t pread64(int fd, void *buffer, std::size_t len, off_t offset) {
    return ::pread(fd, buffer, len, offset);
}

// The names are those of libc.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)

UPM_HOOK ssize_t __read_chk(int fd, void *buffer, std::size_t len, std::size_t room) {
    if (len > room && ready() && real().__read_chk != nullptr) [[unlikely]]
        return real().__read_chk(fd, buffer, len, room);
    return ::read(fd, buffer, len);
}

UPM_HOOK ssize_t __pread_chk(int fd, void *buffer, std::size_t len, off_t offset,
                             std::size_t room) {
    if (len > room && ready() && real().__pread_chk != nullptr) [[unlikely]]
        return real().__pread_chk(fd, buffer, len, offset, room);
    return ::pread(fd, buffer, len, offset);
}

UPM_HOOK ssize_t __pread64_chk(int fd, void *buffer, std::size_t len, off_t offset,
                               std::size_t room) {
    return ::__pread_chk(fd, buffer, len, offset, room);
}

// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

UPM_HOOK ssize_t readv(int fd, const iovec *vector, int count) {
    if (may_load_vectors())
        return readv_some(fd, vector, count);
    return real().readv(fd, vector, count);
}

UPM_HOOK ssize_t preadv(int fd, const iovec *vector, int count, off_t offset) {
    if (may_load_vectors())
        return preadv_some(fd, vector, count, offset);
    return real().preadv(fd, vector, count, offset);
}

UPM_HOOK ssize_t preadv64(int fd, const iovec *vector, int count, off_t offset) {
    return ::preadv(fd, vector, count, offset);
}

UPM_HOOK ssize_t preadv2(int fd, const iovec *vector, int count, off_t offset, int flags) {
    constexpr off_t kHere = -1; // at the file's position, which moves on
    ssize_t got = 0;
    if (flags == 0 && may_load_vectors()) {
        if (offset == kHere ? readv_large(fd, vector, count, got)
                            : preadv_large(fd, vector, count, offset, got))
            return got;
    }
    if (!ready() || real().preadv2 == nullptr) [[unlikely]]
        return preadv_by_kernel(fd, vector, count, offset, flags);
    return real().preadv2(fd, vector, count, offset, flags);
}

UPM_HOOK ssize_t preadv64v2(int fd, const iovec *vector, int count, off_t offset, int flags) {
    return ::preadv2(fd, vector, count, offset, flags);
}
