// SPDX-License-Identifier: MIT
//
// The hooked functions of malloc. Each is what it was for a caller, and each passes on
// to the real one whatever the hook cannot do better. map_hooks.cpp has the others.
#include "preload/adviser.hpp"
#include "preload/blocks.hpp"
#include "preload/enable.hpp"
#include "preload/page.hpp"
#include "preload/real.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

namespace upm::hook {

namespace {

constexpr std::size_t kOff = SIZE_MAX;
constexpr std::size_t kMallocAlignment = 16; // what malloc promises on 64-bit systems

// Blocks of this size and above are the hook's.
constinit std::atomic<std::size_t> threshold{kOff};

// nullptr: the real allocator serves.
void *large(std::size_t size, std::size_t alignment, bool zero) noexcept {
    const int error = errno;
    void *const memory = allocate_block(size, alignment, zero);
    if (memory != nullptr && !notice_block(true))
        threshold.store(kOff, std::memory_order_relaxed);
    errno = error;
    return memory;
}

void *early(std::size_t size, std::size_t alignment = kMallocAlignment) noexcept {
    void *const memory = early_alloc(size, alignment);
    if (memory == nullptr)
        errno = ENOMEM;
    return memory;
}

// Pre: the old block is of the hook, and cannot be changed in place.
void *move_own(Block &block, std::size_t size) noexcept {
    const std::size_t old_size = block.len;
    void *const memory = ::malloc(size);
    if (memory == nullptr)
        return nullptr;
    std::memcpy(memory, block.addr, std::min(size, old_size));
    free_block(block);
    return memory;
}

// A block of the real allocator that grows into the hook's: copied once.
void *adopt(void *pointer, std::size_t size) noexcept {
    void *const memory = large(size, kPageSize, false);
    if (memory == nullptr)
        return real().realloc(pointer, size);
    std::memcpy(memory, pointer, std::min(size, real().malloc_usable_size(pointer)));
    real().free(pointer);
    return memory;
}

void *move_early(const void *pointer, std::size_t size) noexcept {
    void *const memory = ::malloc(size);
    if (memory != nullptr)
        std::memcpy(memory, pointer, std::min(size, early_rest(pointer)));
    return memory;
}

bool power_of_two(std::size_t value) noexcept {
    return value != 0 && (value & (value - 1)) == 0;
}

} // namespace

void set_threshold(std::size_t bytes) noexcept {
    threshold = bytes;
}

bool wants(std::size_t size) noexcept {
    return size >= threshold.load(std::memory_order_relaxed) && !Guard::active();
}

} // namespace upm::hook

using namespace upm::hook; // NOLINT(google-build-using-namespace): the hooks are C functions

UPM_HOOK void *malloc(std::size_t size) noexcept {
    if (!ready()) [[unlikely]]
        return early(size);
    if (wants(size)) [[unlikely]]
        if (void *const memory = large(size, kPageSize, false); memory != nullptr)
            return memory;
    return real().malloc(size);
}

UPM_HOOK void *calloc(std::size_t count, std::size_t size) noexcept {
    if (!ready()) [[unlikely]]
        return early(count * size); // is zero from the start
    std::size_t bytes = 0;
    if (!__builtin_mul_overflow(count, size, &bytes) && wants(bytes)) [[unlikely]]
        if (void *const memory = large(bytes, kPageSize, true); memory != nullptr)
            return memory;
    return real().calloc(count, size);
}

UPM_HOOK void free(void *pointer) noexcept {
    if (page_aligned(pointer)) [[unlikely]]
        if (Block *const block = find_own(pointer); block != nullptr) {
            const int error = errno;
            free_block(*block);
            errno = error;
            return;
        }
    if (!is_early(pointer) && ready())
        real().free(pointer);
}

UPM_HOOK void *realloc(void *pointer, std::size_t size) noexcept {
    if (pointer == nullptr)
        return ::malloc(size);
    if (!ready() || is_early(pointer)) [[unlikely]]
        return move_early(pointer, size);
    Block *const block = find_own(pointer);
    if (block == nullptr)
        return wants(size) ? adopt(pointer, size) : real().realloc(pointer, size);
    if (size == 0) { // as glibc does it
        ::free(pointer);
        return nullptr;
    }
    void *const resized = wants(size) ? resize_block(*block, size) : nullptr;
    return resized != nullptr ? resized : move_own(*block, size);
}

UPM_HOOK void *reallocarray(void *pointer, std::size_t count, std::size_t size) noexcept {
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return nullptr;
    }
    return ::realloc(pointer, bytes);
}

UPM_HOOK int posix_memalign(void **result, std::size_t alignment, std::size_t size) noexcept {
    if (!ready()) [[unlikely]] {
        *result = early_alloc(size, alignment);
        return *result != nullptr ? 0 : ENOMEM;
    }
    if (wants(size) && power_of_two(alignment) && alignment % sizeof(void *) == 0)
        if (void *const memory = large(size, alignment, false); memory != nullptr) {
            *result = memory;
            return 0;
        }
    return real().posix_memalign(result, alignment, size);
}

UPM_HOOK void *aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
    if (!ready()) [[unlikely]]
        return early(size, alignment);
    if (wants(size) && power_of_two(alignment))
        if (void *const memory = large(size, alignment, false); memory != nullptr)
            return memory;
    return real().aligned_alloc(alignment, size);
}

UPM_HOOK void *memalign(std::size_t alignment, std::size_t size) noexcept {
    if (!ready()) [[unlikely]]
        return early(size, alignment);
    if (wants(size) && power_of_two(alignment))
        if (void *const memory = large(size, alignment, false); memory != nullptr)
            return memory;
    return real().memalign(alignment, size);
}

UPM_HOOK void *valloc(std::size_t size) noexcept {
    return ::memalign(kPageSize, size);
}

UPM_HOOK void *pvalloc(std::size_t size) noexcept {
    const std::size_t whole = round_up(size);
    if (whole < size) {
        errno = ENOMEM;
        return nullptr;
    }
    return ::memalign(kPageSize, whole);
}

UPM_HOOK std::size_t malloc_usable_size(void *pointer) noexcept {
    if (const Block *const block = find_own(pointer); block != nullptr)
        return block->len;
    if (is_early(pointer) || !ready())
        return 0;
    return real().malloc_usable_size(pointer);
}
