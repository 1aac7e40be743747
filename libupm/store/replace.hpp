// SPDX-License-Identifier: MIT
//
// What is done to the program's memory: a segment is mapped over pages that were
// compared with it byte by byte, zeros are dropped, and private copies come back.
#ifndef UPM_STORE_REPLACE_HPP
#define UPM_STORE_REPLACE_HPP

#include "libupm/mm/aligned_range.hpp"
#include "libupm/store/frozen.hpp"
#include "libupm/store/open_segments.hpp"
#include "libupm/store/run_budget.hpp"
#include "libupm/store/window.hpp"

#include <upm/upm.h>

#include <cstddef>
#include <cstdint>

namespace upm::store {

// A part of a segment, mapped to be compared with, and to be moved over what is equal.
class SegmentView {
  public:
    // Maps it so that it lies to a huge page as `address` does: then the kernel can move
    // page tables as a whole. At most kBatch pages. 0 or -errno.
    int map(std::uint64_t address, const OpenSegment &segment, std::uint32_t page,
            std::uint32_t pages, int protection) noexcept;
    [[nodiscard]] std::byte *page(std::uint32_t index) const noexcept;

  private:
    AlignedRange range_;
    std::byte *data_ = nullptr;
};

// Works on one target.
class Replacer {
  public:
    Replacer(Target &target, RunBudget &budget, SegmentView &view) noexcept
        : target_(target), budget_(budget), view_(view) {}

    [[nodiscard]] Target &target() const noexcept { return target_; }

    // How far merge() came.
    struct Reached {
        std::uint32_t page = 0; // of the window: the first that was not looked at
        Place successor;        // what may be there, if anything
        int error = 0;          // ECANCELED: the target is lost
    };
    // Maps the segment over those pages of a run that are equal to it.
    Reached merge(Window &window, const Run &run, OpenSegment &segment) noexcept;
    // Maps a file that is a copy of these frozen pages over them. False: no room.
    bool place(Frozen &frozen, std::uint32_t first, std::uint32_t count, int fd,
               std::uint32_t file_page) noexcept;
    // Gives the window's pages of zeros back.
    void drop_zeros(Window &window) noexcept;
    // Puts private copies in place of a part of at most kBatch pages. 0 or -errno.
    int copy_back(std::uint64_t start, std::uint32_t pages) noexcept;
    // The same for the whole target, where anything is shared, and counts.
    int unmerge(upm_counts &counts) noexcept;

  private:
    class Comparison;

    void drop_zeros(Window &window, std::uint32_t first, std::uint32_t count) noexcept;
    int move_copy(void *copy, std::uint64_t start, std::uint32_t pages) noexcept;
    int unmerge_batch(std::uint64_t start, std::uint32_t pages, upm_counts &counts) noexcept;
    bool drop(Frozen &frozen, std::uint32_t first, std::uint32_t count) noexcept;

    Target &target_;
    RunBudget &budget_;
    SegmentView &view_;
};

} // namespace upm::store

#endif // UPM_STORE_REPLACE_HPP
