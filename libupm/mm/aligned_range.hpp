// SPDX-License-Identifier: MIT
//
// A part of the address space that begins where a huge page could. Page tables are
// moved as a whole, and huge pages mapped as such, only between such places.
#ifndef UPM_MM_ALIGNED_RANGE_HPP
#define UPM_MM_ALIGNED_RANGE_HPP

#include <cstddef>
#include <cstdint>
#include <sys/mman.h>

namespace upm {

// On kernels with pages of 4 KiB, which are those where it is made use of.
inline constexpr std::size_t kHugePage = 2UL << 20U;

class AlignedRange {
  public:
    AlignedRange() noexcept = default;
    AlignedRange(const AlignedRange &) = delete;
    AlignedRange &operator=(const AlignedRange &) = delete;
    ~AlignedRange() { reset(); }

    // Reserves the addresses: nothing can be read there yet. False: no room.
    bool reserve(std::size_t size) noexcept {
        reset();
        void *const mapping = ::mmap(nullptr, size + kHugePage, PROT_NONE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED)
            return false;
        mapping_ = static_cast<std::byte *>(mapping);
        mapped_ = size + kHugePage;
        return true;
    }
    // Unmaps whatever is there by now.
    void reset() noexcept {
        if (mapping_ != nullptr)
            (void)::munmap(mapping_, mapped_);
        mapping_ = nullptr;
    }
    // Pre: reserved. Aligned to a huge page.
    [[nodiscard]] std::byte *data() const noexcept {
        const std::size_t over = reinterpret_cast<std::uintptr_t>(mapping_) % kHugePage;
        return mapping_ + (over == 0 ? 0 : kHugePage - over);
    }
    explicit operator bool() const noexcept { return mapping_ != nullptr; }

  private:
    std::byte *mapping_ = nullptr;
    std::size_t mapped_ = 0;
};

} // namespace upm

#endif // UPM_MM_ALIGNED_RANGE_HPP
