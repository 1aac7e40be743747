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

// While it lives, calls of its thread believe it where it covers their range, and look for
// themselves elsewhere. So what is advised meanwhile must be memory that nobody but this
// library maps anew or changes the flags of: the hook's own blocks are.
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

    // The calling thread's mappings that make up [start, end), in order; empty if there
    // is no layout, or if it has a hole there.
    static std::span<const Vma> covering(std::uint64_t start, std::uint64_t end) noexcept;

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
