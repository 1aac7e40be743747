// SPDX-License-Identifier: MIT
#include "preload/pages.hpp"

#include "preload/page.hpp"
#include "preload/real.hpp"

#include <cstdint>
#include <sys/mman.h>

namespace upm::hook {

namespace {

// nullptr: no room.
char *map_aligned(std::size_t len, std::size_t alignment, int prot) noexcept {
    const std::size_t extra = alignment > kPageSize ? alignment - kPageSize : 0;
    if (len + extra < len)
        return nullptr;
    void *const memory =
        real().mmap(nullptr, len + extra, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return nullptr;
    auto *const first = static_cast<char *>(memory);
    if (extra == 0)
        return first;
    const std::size_t before =
        (alignment - reinterpret_cast<std::uintptr_t>(first) % alignment) % alignment;
    if (before > 0)
        (void)real().munmap(first, before);
    if (before < extra)
        (void)real().munmap(first + before + len, extra - before);
    return first + before;
}

} // namespace

char *map_pages(std::size_t len, std::size_t alignment) noexcept {
    constexpr int kProt = PROT_READ | PROT_WRITE;
    char *const memory =
        len >= kHugeSize && alignment < kHugeSize ? map_aligned(len, kHugeSize, kProt) : nullptr;
    return memory != nullptr ? memory : map_aligned(len, alignment, kProt);
}

char *remap_pages(char *addr, std::size_t old_len, std::size_t len) noexcept {
    const bool huge = len >= kHugeSize;
    if (len <= old_len || (huge && reinterpret_cast<std::uintptr_t>(addr) % kHugeSize == 0)) {
        void *const same = real().mremap(addr, old_len, len, 0);
        if (same != MAP_FAILED)
            return static_cast<char *>(same);
    }
    // Whole page tables move when old and new place are aligned alike.
    if (char *const place = huge ? map_aligned(len, kHugeSize, PROT_NONE) : nullptr;
        place != nullptr) {
        if (real().mremap(addr, old_len, len, MREMAP_MAYMOVE | MREMAP_FIXED, place) != MAP_FAILED)
            return place;
        (void)real().munmap(place, len);
    }
    void *const moved = real().mremap(addr, old_len, len, MREMAP_MAYMOVE);
    return moved != MAP_FAILED ? static_cast<char *>(moved) : nullptr;
}

} // namespace upm::hook
