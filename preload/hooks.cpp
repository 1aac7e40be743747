// SPDX-License-Identifier: MIT
//
// The hooked functions themselves. Each is what it was for a caller, and each
// passes on to the real one whatever the hook cannot do better.
#include "preload/adviser.hpp"
#include "preload/blocks.hpp"
#include "preload/enable.hpp"
#include "preload/page.hpp"
#include "preload/real.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>
#include <upm/upm.hpp>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

namespace upm::hook {

namespace {

constexpr std::size_t kOff = SIZE_MAX;
constexpr std::size_t kMallocAlignment = 16; // what malloc promises on 64-bit systems

// Blocks of this size and above are the hook's.
constinit std::atomic<std::size_t> threshold{kOff};

bool wants(std::size_t size) noexcept {
    return size >= threshold.load(std::memory_order_relaxed) && !Guard::active();
}

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

// --- mappings ---

constexpr int kOddFlags = MAP_SHARED | MAP_GROWSDOWN | MAP_HUGETLB | MAP_STACK | MAP_LOCKED;

// Large, private, and to be read and written: what a program keeps data in.
bool worth_recording(std::size_t len, int prot, int flags) noexcept {
    return (flags & MAP_ANONYMOUS) != 0 && (flags & kOddFlags) == 0 &&
           prot == (PROT_READ | PROT_WRITE) && wants(len);
}

// Something special happens to this range, and the backend maps things over blocks:
// from now on it leaves the blocks there alone.
void hands_off(const void *addr, std::size_t len) noexcept {
    for_each_block(addr, len, [](Block &block) { block.hands_off = true; });
}

void *map(void *(*real_mmap)(void *, std::size_t, int, int, int, off_t), void *addr,
          std::size_t len, int prot, int flags, int fd, off_t offset) noexcept {
    void *result = MAP_FAILED;
    if ((flags & MAP_FIXED) != 0 && backend_remaps() && !Guard::active()) {
        const NoAdvise no_advise;
        hands_off(addr, len);
        result = real_mmap(addr, len, prot, flags, fd, offset);
    } else {
        result = real_mmap(addr, len, prot, flags, fd, offset);
    }
    if (result == MAP_FAILED)
        return result;
    if (worth_recording(len, prot, flags)) {
        const int error = errno;
        record_mapping(result, len);
        (void)notice_block(false);
        errno = error;
    }
    return result;
}

// What is left in memory after these are zeros, but a mapping of shared content
// would show that content again.
bool drops_content(int advice) noexcept {
    constexpr int kDontneedLocked = 24; // since Linux 5.18; not in older headers
    return advice == MADV_DONTNEED || advice == MADV_FREE || advice == kDontneedLocked;
}

// Flags of the mapping, which only an anonymous one of its own can have.
bool marks_mapping(int advice) noexcept {
    return advice == MADV_DONTFORK || advice == MADV_WIPEONFORK || advice == MADV_DONTDUMP ||
           advice == MADV_REMOVE;
}

// Pages inside an own block, given back as the program wants it, without shared
// content below them. 0 or -1 and errno; 1: not in a block that was advised.
int drop_content(void *addr, std::size_t len) noexcept {
    const Guard guard;
    const NoAdvise no_advise;
    int result = 1;
    for_each_block(addr, len, [&](Block &block) {
        block.hands_off = true;
        if (!block.advised)
            return;
        char *const first = std::max(static_cast<char *>(addr), block.addr.load());
        char *const end = std::min(static_cast<char *>(addr) + round_up(len),
                                   block.addr.load() + block.len.load());
        void *const fresh =
            real().mmap(first, static_cast<std::size_t>(end - first), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        result = fresh == MAP_FAILED ? -1 : 0;
    });
    return result;
}

// Not while a piece is being advised: shared content would be mapped where nothing is
// any more, or soon something else. Of a mapping that goes in part, the rest is left as
// it is, and remembered: it may show shared content.
int unmap(void *addr, std::size_t len) noexcept {
    const auto *const first = static_cast<char *>(addr);
    const NoAdvise no_advise;
    for_each_block(addr, len, [&](Block &block) {
        if (block.own)
            return;
        char *const start = block.addr;
        if (start >= first && start + block.len <= first + round_up(len))
            forget_mapping(start);
        else
            block.hands_off = true;
    });
    return real().munmap(addr, len);
}

void make_private(void *addr, std::size_t len) noexcept {
    const Guard guard;
    bool advised = false;
    {
        const NoAdvise no_advise;
        for_each_block(addr, len, [&](Block &block) {
            block.hands_off = true;
            advised = advised || block.advised;
        });
    }
    if (advised)
        (void)upm::unmerge(addr, len);
}

} // namespace

void set_threshold(std::size_t bytes) noexcept {
    threshold = bytes;
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

// The heap may shrink, which it must not while it is being advised.
UPM_HOOK int malloc_trim(std::size_t pad) noexcept {
    if (!ready() || real().malloc_trim == nullptr)
        return 0;
    if (!backend_remaps() || Guard::active())
        return real().malloc_trim(pad);
    const NoAdvise no_advise;
    return real().malloc_trim(pad);
}

UPM_HOOK void *mmap(void *addr, std::size_t len, int prot, int flags, int fd,
                    off_t offset) noexcept {
    (void)ready();
    return map(real().mmap, addr, len, prot, flags, fd, offset);
}

UPM_HOOK void *mmap64(void *addr, std::size_t len, int prot, int flags, int fd,
                      off_t offset) noexcept {
    (void)ready();
    return map(real().mmap64, addr, len, prot, flags, fd, offset);
}

UPM_HOOK int munmap(void *addr, std::size_t len) noexcept {
    (void)ready();
    if (backend_remaps() && !Guard::active())
        return unmap(addr, len);
    forget_mapping(addr);
    return real().munmap(addr, len);
}

UPM_HOOK void *mremap(void *addr, std::size_t old_len, std::size_t len, int flags, ...) noexcept {
    (void)ready();
    void *wished = nullptr;
    if ((flags & MREMAP_FIXED) != 0) {
        va_list arguments;
        va_start(arguments, flags);
        wished = va_arg(arguments, void *);
        va_end(arguments);
    }
    if (backend_remaps() && !Guard::active())
        make_private(addr, old_len);
    const Block *const known = find_mapping(addr);
    if (known != nullptr)
        forget_mapping(addr);
    void *const moved = real().mremap(addr, old_len, len, flags, wished);
    if (known != nullptr && moved != MAP_FAILED && wants(len))
        record_mapping(moved, len);
    return moved;
}

UPM_HOOK int mprotect(void *addr, std::size_t len, int prot) noexcept {
    (void)ready();
    if (backend_remaps() && !Guard::active())
        hands_off(addr, len);
    return real().mprotect(addr, len, prot);
}

UPM_HOOK int madvise(void *addr, std::size_t len, int advice) noexcept {
    (void)ready();
    if (backend_remaps() && !Guard::active()) {
        if (drops_content(advice) && page_aligned(addr)) {
            const int result = drop_content(addr, len);
            if (result <= 0)
                return result;
        } else if (marks_mapping(advice)) {
            make_private(addr, len);
        }
    }
    return real().madvise(addr, len, advice);
}
