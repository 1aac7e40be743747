// SPDX-License-Identifier: MIT
#include "libupm/base/plain_read.hpp"

#include <cerrno>
#include <unistd.h>

namespace upm {

std::int64_t plain_read(int fd, std::uint64_t offset, std::byte *into, std::size_t len) noexcept {
    std::size_t done = 0;
    while (done < len) {
        const ssize_t got = ::pread(fd, into + done, len - done, static_cast<off_t>(offset + done));
        if (got == 0)
            break;
        if (got > 0)
            done += static_cast<std::size_t>(got);
        else if (errno != EINTR)
            return done != 0 ? static_cast<std::int64_t>(done) : -errno;
    }
    return static_cast<std::int64_t>(done);
}

} // namespace upm
