// SPDX-License-Identifier: MIT
//
// The mappings of this process as one look at /proc/self/smaps found them. The look walks
// all page tables (20 ms of CPU in a PyTorch process: 1800 mappings, 260 MiB), so a caller
// with many ranges takes one for all of them.
#ifndef UPM_MM_LAYOUT_HPP
#define UPM_MM_LAYOUT_HPP

#include "libupm/mm/vma_reader.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm {

// A call that gets it (Call::layout) believes it where it covers the call's range, and looks
// for itself elsewhere. So what is advised by it must be memory that nobody but this library
// has mapped anew or changed the flags of since.
class Layout {
  public:
    // `heap`: the heap (brk) may be advised, too: its allocator neither relies on what
    // MADV_DONTNEED leaves nor shrinks it meanwhile.
    explicit Layout(bool heap = false) noexcept;
    Layout(const Layout &) = delete;
    Layout &operator=(const Layout &) = delete;
    ~Layout();

    // From the first to the last mapping of the heap; both 0 if there is none.
    [[nodiscard]] std::uint64_t heap_start() const noexcept { return heap_start_; }
    [[nodiscard]] std::uint64_t heap_end() const noexcept { return heap_end_; }

    // The mappings that make up [start, end), in order; empty if there is a hole in them,
    // or if they could not be read.
    [[nodiscard]] std::span<const Vma> covering(std::uint64_t start,
                                                std::uint64_t end) const noexcept;

  private:
    bool add(const Vma &vma) noexcept;

    Vma *vmas_ = nullptr; // mapped, since the heap may be what is looked at
    std::size_t count_ = 0;
    std::size_t room_ = 0;
    std::uint64_t heap_start_ = 0;
    std::uint64_t heap_end_ = 0;
};

} // namespace upm

#endif // UPM_MM_LAYOUT_HPP
