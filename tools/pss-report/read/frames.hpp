// SPDX-License-Identifier: MIT
//
// Page by page: /proc/PID/pagemap says which frame a page is in, /proc/kpagecount how
// often the frame is mapped, /proc/kpageflags what it is. The last two are for root.
#ifndef UPM_TOOLS_PSS_REPORT_READ_FRAMES_HPP
#define UPM_TOOLS_PSS_REPORT_READ_FRAMES_HPP

#include "tools/pss-report/read/parse.hpp"
#include "tools/pss-report/read/proc.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace upm::tool::pss {

// Bits of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst).
inline constexpr std::uint64_t kPagePresent = std::uint64_t{1} << 63U;
inline constexpr std::uint64_t kPageSwapped = std::uint64_t{1} << 62U;
inline constexpr std::uint64_t kPageFile = std::uint64_t{1} << 61U; // or shared anonymous
inline constexpr std::uint64_t kPageExclusive = std::uint64_t{1} << 56U;
inline constexpr std::uint64_t kPageFrame = (std::uint64_t{1} << 55U) - 1;

// Bits of /proc/kpageflags.
inline constexpr std::uint64_t kFrameUptodate = std::uint64_t{1} << 3U;
inline constexpr std::uint64_t kFrameLru = std::uint64_t{1} << 5U;
inline constexpr std::uint64_t kFrameAnon = std::uint64_t{1} << 12U;
inline constexpr std::uint64_t kFrameMissing = std::uint64_t{1} << 20U;
inline constexpr std::uint64_t kFrameKsm = std::uint64_t{1} << 21U;
inline constexpr std::uint64_t kFrameZero = std::uint64_t{1} << 24U;

// A page that the module made: a kernel page, so neither anonymous nor on a list of
// the page cache nor ever read from a file.
constexpr bool is_upm_frame(std::uint64_t flags) {
    return (flags & (kFrameUptodate | kFrameLru | kFrameAnon | kFrameMissing | kFrameKsm |
                     kFrameZero)) == 0;
}

// Entries of the pagemap of one process.
class Pagemap {
  public:
    // `process`: its pid, and the thread that shows its memory.
    Pagemap(const Proc &proc, const Process &process, std::uint64_t page_size);
    [[nodiscard]] bool valid() const { return static_cast<bool>(file_); }
    // The entries of the pages from `start` on; fewer at the end of the process.
    [[nodiscard]] std::size_t read(std::uint64_t start, std::span<std::uint64_t> entries) const;

  private:
    Descriptor file_;
    std::uint64_t page_size_;
};

class Frames {
  public:
    explicit Frames(const Root &root);
    [[nodiscard]] bool valid() const { return counts_ && flags_; }
    // One value for each frame; 0 where it cannot be read.
    void counts(std::span<const std::uint64_t> frames, std::vector<std::uint64_t> &out) const {
        read(counts_.get(), frames, out);
    }
    void flags(std::span<const std::uint64_t> frames, std::vector<std::uint64_t> &out) const {
        read(flags_.get(), frames, out);
    }

  private:
    static void read(int fd, std::span<const std::uint64_t> frames,
                     std::vector<std::uint64_t> &out);

    Descriptor counts_;
    Descriptor flags_;
};

// Merged pages of one mapping, in bytes. A process's part of what a shared page saves:
// all but one of its n mappings are saved, so each of them saves 1 - 1/n.
struct Merged {
    std::uint64_t upm = 0;
    std::uint64_t upm_saved = 0;
    std::uint64_t ksm = 0;
    std::uint64_t ksm_saved = 0;
};

// Counts by frames. False if frames cannot be seen, `merged` is untouched then.
bool count_merged(const Pagemap &pagemap, const Frames &frames, const MeasuredMapping &mapping,
                  std::uint64_t page_size, Merged &merged);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_FRAMES_HPP
