// SPDX-License-Identifier: MIT
//
// What the kernel says about memory: frames by /proc/PID/pagemap, their flags by
// /proc/kpageflags, sizes by /proc/PID/smaps. Needs root.
#ifndef UPM_TESTS_SUPPORT_PROC_HPP
#define UPM_TESTS_SUPPORT_PROC_HPP

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace upm::test {

using Frames = std::vector<std::uint64_t>;

// Page frame numbers of `pages` pages from `addr` on; 0: not present, or the
// kernel's zero page, which costs nothing either.
Frames frames_of(pid_t pid, const void *addr, std::size_t pages);

// The same of this process; nothing without the right to see them.
std::optional<Frames> own_frames(const void *addr, std::size_t pages);

// Which of the pages are in swap (or under migration).
std::vector<bool> swapped_of(pid_t pid, const void *addr, std::size_t pages);

// Number of pages whose frame is the same, and present, on both sides.
std::size_t equal_frames(const Frames &a, const Frames &b);
// Number of frames of `a` that occur anywhere in `b`.
std::size_t common_frames(const Frames &a, const Frames &b);
std::size_t present_frames(const Frames &frames);
std::size_t distinct_frames(const Frames &frames);

// Bits of /proc/kpageflags, as in the kernel's Documentation/admin-guide/mm/pagemap.rst.
inline constexpr unsigned kFlagCompoundHead = 15;
inline constexpr unsigned kFlagCompoundTail = 16;
inline constexpr unsigned kFlagThp = 22;
inline constexpr unsigned kFlagZeroPage = 24;

bool frame_has(std::uint64_t frame, unsigned flag);
std::size_t frames_with(const Frames &frames, unsigned flag);

// Sums of /proc/PID/smaps in bytes, over the mappings that lie in a range.
struct Usage {
    std::uint64_t size = 0;
    std::uint64_t rss = 0;
    std::uint64_t pss = 0;
    std::uint64_t anon_huge = 0;
    std::uint64_t swap = 0;
    std::uint64_t locked = 0;
    unsigned mappings = 0;
};

Usage usage_of(pid_t pid, const void *addr, std::size_t len);
// The same from the text of a smaps file.
Usage parse_smaps(const std::string &text, std::uint64_t from, std::uint64_t to);

struct MapEntry {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::string flags; // rwxp
    std::string name;
};

std::vector<MapEntry> maps_of(pid_t pid);

// A field of /proc/meminfo in bytes.
std::uint64_t meminfo(const std::string &field);

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_PROC_HPP
