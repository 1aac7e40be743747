// SPDX-License-Identifier: MIT
//
// Mapping a part of a segment over the program's memory.
#ifndef UPM_STORE_OVERLAY_HPP
#define UPM_STORE_OVERLAY_HPP

#include <cstddef>
#include <cstdint>

namespace upm::store {

struct Overlay {
    std::uint64_t at = 0;     // where it is mapped
    std::size_t size = 0;     // bytes, whole pages
    int fd = -1;              // of the segment
    std::uint64_t offset = 0; // bytes, in the segment
    int protection = 0;
    std::byte *view = nullptr; // the same part, mapped privately elsewhere; or none
};

// Maps it. The kernel does that under one lock: other threads see the old pages or the new
// ones. With a view, its page tables are moved there as they are, and it stays mapped, so
// that its addresses remain ours, without its pages; kernels before 5.13 cannot do that, and
// map the file.
// False: the kernel refuses, and the old pages are still there.
bool map_over(const Overlay &overlay) noexcept;

// Ends the process: there is a hole now where the program's memory was, and what was there
// cannot be mapped. It must not read zeros, or what another thread maps there.
[[noreturn]] void fail_stop() noexcept;

} // namespace upm::store

#endif // UPM_STORE_OVERLAY_HPP
