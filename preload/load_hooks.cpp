// SPDX-License-Identifier: MIT
//
// The hooked functions that read files. Each costs a program that reads small pieces one
// comparison. None is noexcept: a thread may be cancelled in the real ones.
#include "preload/enable.hpp"
#include "preload/loads.hpp"
#include "preload/real.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

namespace upm::hook {

namespace {

// What a file's buffers hold of it is not what its descriptor's position says. So the
// stream's own position counts, and is set anew. Only streams of which nothing can be
// waiting to be written. 0: the real function is to serve.
std::size_t load_stream(void *buffer, std::size_t size, std::size_t count, FILE *stream) noexcept {
    std::size_t len = 0;
    if (__builtin_mul_overflow(size, count, &len) || !may_load(len))
        return 0;
    const int error = errno;
    const int fd = ::fileno(stream);
    const int flags = fd >= 0 ? ::fcntl(fd, F_GETFL) : -1;
    const off_t here = flags >= 0 && (flags & O_ACCMODE) == O_RDONLY ? ::ftello(stream) : -1;
    ssize_t got = 0;
    std::size_t whole = 0;
    if (here >= 0 && load_at(fd, here, buffer, len, got)) {
        // What came of an item in part is read once more, as is the end of the file.
        whole = static_cast<std::size_t>(got) / size;
        if (::fseeko(stream, here + static_cast<off_t>(whole * size), SEEK_SET) != 0)
            whole = 0;
    }
    errno = error;
    return whole;
}

ssize_t read_parts(int fd, const iovec *parts, int count, off_t offset, bool here,
                   bool &served) noexcept {
    ssize_t got = 0;
    served = here ? load_here(fd, parts[0].iov_base, parts[0].iov_len, got)
                  : load_at(fd, offset, parts[0].iov_base, parts[0].iov_len, got);
    if (!served || static_cast<std::size_t>(got) < parts[0].iov_len || count == 1)
        return got;
    const ssize_t more = here ? real().readv(fd, parts + 1, count - 1)
                              : real().preadv(fd, parts + 1, count - 1, offset + got);
    return got + (more > 0 ? more : 0);
}

} // namespace

} // namespace upm::hook

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

UPM_HOOK ssize_t readv(int fd, const iovec *parts, int count) {
    (void)ready();
    bool served = false;
    if (count > 0 && may_load(parts[0].iov_len)) [[unlikely]]
        if (const ssize_t got = read_parts(fd, parts, count, 0, true, served); served)
            return got;
    return real().readv(fd, parts, count);
}

UPM_HOOK ssize_t preadv(int fd, const iovec *parts, int count, off_t offset) {
    (void)ready();
    bool served = false;
    if (count > 0 && may_load(parts[0].iov_len)) [[unlikely]]
        if (const ssize_t got = read_parts(fd, parts, count, offset, false, served); served)
            return got;
    return real().preadv(fd, parts, count, offset);
}

UPM_HOOK ssize_t preadv64(int fd, const iovec *parts, int count, off_t offset) {
    return ::preadv(fd, parts, count, offset);
}

UPM_HOOK std::size_t fread(void *buffer, std::size_t size, std::size_t count, FILE *stream) {
    (void)ready();
    std::size_t done = 0;
    if (size != 0 && count != 0 && may_load(size > SIZE_MAX / count ? 0 : size * count))
        [[unlikely]] {
        ::flockfile(stream);
        done = load_stream(buffer, size, count, stream);
        if (done != count)
            done +=
                real().fread(static_cast<char *>(buffer) + done * size, size, count - done, stream);
        ::funlockfile(stream);
        return done;
    }
    return real().fread(buffer, size, count, stream);
}

UPM_HOOK std::size_t fread_unlocked(void *buffer, std::size_t size, std::size_t count,
                                    FILE *stream) {
    const std::size_t done = size != 0 && count != 0 ? load_stream(buffer, size, count, stream) : 0;
    if (done == count && done != 0)
        return done;
    return done + real().fread_unlocked(static_cast<char *>(buffer) + done * size, size,
                                        count - done, stream);
}
