// SPDX-License-Identifier: MIT
//
// Segments: sealed memfds that hold the shared pages. The kernel's seals are what
// makes it safe to map one that a stranger made: nobody can change it any more.
#ifndef UPM_STORE_SEGMENT_HPP
#define UPM_STORE_SEGMENT_HPP

#include "libupm/mm/aligned_range.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

// As /proc/PID/maps shows a mapping of a segment: "/memfd:upm-store (deleted)".
inline constexpr const char *kSegmentName = "upm-store";

// Makes one: create(), then reserve() and fill() for each part, at last seal().
class SegmentWriter {
  public:
    SegmentWriter() noexcept = default;
    SegmentWriter(const SegmentWriter &) = delete;
    SegmentWriter &operator=(const SegmentWriter &) = delete;
    ~SegmentWriter();

    // A file of that size without memory. The first `huge_runs` times 2 MiB will be
    // huge pages if the kernel has such. 0 or -errno: EMFILE, ENFILE, ENOMEM, EFBIG
    // (RLIMIT_FSIZE).
    int create(std::uint64_t size, std::uint32_t huge_runs = 0) noexcept;
    // Gives a part its memory, which is within a huge run or all of it, or behind
    // them. 0 or -errno: ENOMEM, ENOSPC.
    int reserve(std::uint64_t offset, std::uint64_t size) noexcept;
    // Copies memory to a part. 0 or -errno: EFAULT (unmapped meanwhile).
    [[nodiscard]] int fill(std::uint64_t offset, std::span<const std::byte> bytes) const noexcept;
    // Where to put that part, if it has huge pages; else nothing: fill() takes it.
    [[nodiscard]] std::span<std::byte> room(std::uint64_t offset, std::size_t size) const noexcept;
    // Leaves out what comes behind. 0 or -errno.
    [[nodiscard]] int cut(std::uint64_t size) const noexcept;
    // Ends every change to it. 0 or -errno: EBUSY (a device reads from it, or
    // a child that was forked just when it was mapped has it).
    int seal() noexcept;

    [[nodiscard]] int fd() const noexcept { return fd_; }
    // The descriptor (close-on-exec), which is the caller's from now on.
    int release() noexcept;

  private:
    int collapse(std::uint64_t offset, std::uint64_t size) noexcept;
    int reserve_huge(std::uint64_t offset) noexcept;

    int fd_ = -1;
    AlignedRange view_;           // of the part that is to be huge pages
    std::uint64_t view_size_ = 0; // in bytes
    std::uint64_t huge_ = 0;      // as far as this they are huge pages
};

// Whether this kernel can give a segment huge pages, for all that is known: false as
// soon as it has once refused as a matter of principle.
bool huge_segments() noexcept;

// Whether `fd` is a segment of `pages` pages: a memfd of ordinary pages (or transparent
// huge ones), sealed against writing and any change of size, all of it allocated (a hole
// would be charged to whoever reads it). 0 or -errno: EBADF, EPERM (seals), EINVAL (size,
// kind of file).
int check_segment(int fd, std::uint64_t pages) noexcept;

// The same for one that a stranger has made: that what is allocated does not lie behind its
// end, and leaves a hole. The kernel looks at every page for that, which takes a twentieth of
// the time that reading them takes; so the broker does it once, and clients rely on that.
int check_published(int fd, std::uint64_t pages) noexcept;

} // namespace upm::store

#endif // UPM_STORE_SEGMENT_HPP
