// SPDX-License-Identifier: MIT
//
// Which files may be read twice, and by a broker, without a difference to anybody.
#ifndef UPM_BASE_SHARABLE_FILE_HPP
#define UPM_BASE_SHARABLE_FILE_HPP

#include <cstdint>

namespace upm {

// Returns true if file systems of that kind, as statfs(2) has it, keep what they read in the page
// cache, serve it without a program in between, and do nothing when a file is closed.
bool keeps_pages(std::uint64_t system) noexcept;

// Returns the size in bytes of a file whose content can be shared: a regular one, open
// for reading and not for direct I/O, where keeps_pages(). 0 for all others.
std::uint64_t sharable_size(int fd) noexcept;

// Returns true if the file may be opened once more, and that descriptor closed, without a
// difference to the process: to close any descriptor of a file gives up all locks that the
// process has on it by fcntl(2) or lockf(3).
bool may_be_opened_anew(int fd) noexcept;

} // namespace upm

#endif // UPM_BASE_SHARABLE_FILE_HPP
