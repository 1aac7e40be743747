// SPDX-License-Identifier: MIT
#ifndef UPM_PRELOAD_PAGE_HPP
#define UPM_PRELOAD_PAGE_HPP

#include <cstddef>
#include <cstdint>

namespace upm::hook {

// A constant, because malloc and free compare with it. enable() keeps the hook
// asleep where the kernel's pages have another size.
inline constexpr std::size_t kPageSize = 4096;

// What one entry of a page table's second level maps: a huge page. Shared content in
// huge pages is mapped by such entries only where the block begins as they do.
inline constexpr std::size_t kHugeSize = 2UL << 20;

inline bool page_aligned(const void *pointer) noexcept {
    return (reinterpret_cast<std::uintptr_t>(pointer) & (kPageSize - 1)) == 0;
}

// 0 on overflow.
inline std::size_t round_up(std::size_t size) noexcept {
    return (size + kPageSize - 1) & ~(kPageSize - 1);
}

} // namespace upm::hook

#endif // UPM_PRELOAD_PAGE_HPP
