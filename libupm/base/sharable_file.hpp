// SPDX-License-Identifier: MIT
//
// Which files may be read twice, and by a broker, without a difference to anybody.
#ifndef UPM_BASE_SHARABLE_FILE_HPP
#define UPM_BASE_SHARABLE_FILE_HPP

#include <cstdint>

namespace upm {

// Returns the size in bytes of a file whose content can be shared: a regular one, open
// for reading and not for direct I/O, on a file system that keeps what it reads in the
// page cache and serves it without a program in between. 0 for all others.
std::uint64_t sharable_size(int fd) noexcept;

// Returns true if the file may be opened once more, and that descriptor closed, without a
// difference to the process: to close any descriptor of a file gives up all locks that the
// process has on it by fcntl(2) or lockf(3).
bool may_be_opened_anew(int fd) noexcept;

} // namespace upm

#endif // UPM_BASE_SHARABLE_FILE_HPP
