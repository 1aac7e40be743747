// SPDX-License-Identifier: MIT
//
// Segments: sealed memfds that hold the shared pages. The kernel's seals are what
// makes it safe to map one that a stranger made: nobody can change it any more.
#ifndef UPM_STORE_SEGMENT_HPP
#define UPM_STORE_SEGMENT_HPP

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

// As /proc/PID/maps shows a mapping of a segment: "/memfd:upm-store (deleted)".
inline constexpr const char *kSegmentName = "upm-store";

// Makes a segment in three steps. A descriptor (close-on-exec) of a file of that
// size with all of its memory, or -errno: EMFILE, ENFILE, ENOMEM, ENOSPC, EFBIG
// (RLIMIT_FSIZE).
int create_segment(std::uint64_t size) noexcept;
// Copies memory to an offset in it. 0 or -errno: EFAULT (unmapped meanwhile).
int fill_segment(int fd, std::uint64_t offset, std::span<const std::byte> bytes) noexcept;
// Ends every change to it. 0 or -errno: EBUSY (a device reads from it).
int seal_segment(int fd) noexcept;

// Whether `fd` is a segment of `pages` pages: a memfd of small pages, sealed
// against writing and any change of size, all of it allocated (a hole would be
// charged to whoever reads it). 0 or -errno: EBADF, EPERM (seals), EINVAL (size,
// kind of file).
int check_segment(int fd, std::uint64_t pages) noexcept;

} // namespace upm::store

#endif // UPM_STORE_SEGMENT_HPP
