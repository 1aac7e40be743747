// SPDX-License-Identifier: MIT
//
// Reading a part of a file as a program would.
#ifndef UPM_BASE_PLAIN_READ_HPP
#define UPM_BASE_PLAIN_READ_HPP

#include <cstddef>
#include <cstdint>

namespace upm {

// Reads up to `len` bytes from `offset` on by pread(2), until there are no more. The
// number of bytes, or -errno if there is none because of an error.
std::int64_t plain_read(int fd, std::uint64_t offset, std::byte *into, std::size_t len) noexcept;

} // namespace upm

#endif // UPM_BASE_PLAIN_READ_HPP
