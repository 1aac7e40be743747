// SPDX-License-Identifier: MIT
//
// The hooked functions that change mappings. With a backend that maps shared content over
// memory, each goes through with_blocks() (changes.hpp), which has the one rule; each
// says what becomes of a block, and does what it does meanwhile.
#include "libupm/api/library.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "preload/adviser.hpp"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/enable.hpp"
#include "preload/outsiders.hpp"
#include "preload/page.hpp"
#include "preload/real.hpp"
#include "preload/sandbox.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

namespace upm::hook {

namespace {

constexpr int kOddFlags = MAP_SHARED | MAP_GROWSDOWN | MAP_HUGETLB | MAP_STACK | MAP_LOCKED;

bool watched() noexcept {
    (void)ready();
    return may_restore() && !Guard::active();
}

// --- what becomes of a block ---

// Something special happens to a part of it: from now on it is left alone, and its parts
// are not all alike any more.
void reshape(Block &block) noexcept {
    block.reshaped = true;
    block.unloadable = true;
    block.hands_off = true;
}

// The same for what every backend may work on all the same: but no block like that is
// kept for the next allocation.
void mark_reshaped(const void *addr, std::size_t len, bool loadable = false) noexcept {
    if (!Guard::active())
        for_each_block(addr, len, [&](Block &block) {
            block.reshaped = true;
            if (!loadable)
                block.unloadable = true;
        });
}

// A range is unmapped, or another mapping takes its place, by `change`. Of a mapping that
// goes in part, the rest is left as it is, and remembered: it may show shared content.
template <class Action>
auto cut_out(void *addr, std::size_t len, Action change) noexcept {
    const auto *const first = static_cast<const char *>(addr);
    bool advised = false;
    const auto result = with_blocks(
        addr, len,
        [&](Block &block) {
            const char *const start = block.addr;
            advised = advised || block.advised;
            if (!block.own && start >= first && start + block.len <= first + round_up(len))
                forget_mapping(start);
            else
                reshape(block);
        },
        change);
    if (advised) {
        const int error = errno;
        notice_unmapped();
        errno = error;
    }
    return result;
}

// --- mmap ---

// Large, private, and to be read and written: what a program keeps data in.
bool worth_recording(std::size_t len, int prot, int flags) noexcept {
    return (flags & MAP_ANONYMOUS) != 0 && (flags & kOddFlags) == 0 &&
           prot == (PROT_READ | PROT_WRITE) && wants(len);
}

void *map(void *(*real_mmap)(void *, std::size_t, int, int, int, off_t), void *addr,
          std::size_t len, int prot, int flags, int fd, off_t offset) noexcept {
    const auto make = [&] { return real_mmap(addr, len, prot, flags, fd, offset); };
    const bool replaces = (flags & MAP_FIXED) != 0 && watched();
    void *result = replaces ? cut_out(addr, len, make) : make();
    if (result == MAP_FAILED && errno == ENOMEM && !sandboxed() && drop_cache() != 0)
        result = make();
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

// --- madvise ---

// What is left in memory after these are zeros, but a mapping of shared content
// would show that content again.
bool drops_content(int advice) noexcept {
    constexpr int kDontneedLocked = 24; // since Linux 5.18; not in older headers
    return advice == MADV_DONTNEED || advice == MADV_FREE || advice == kDontneedLocked;
}

// Advice that is without meaning where shared content is mapped. numpy gives it to each
// large array.
bool about_huge_pages(int advice) noexcept {
    return advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE;
}

// Advice about the range that leaves a mapping what it was.
bool changes_nothing(int advice) noexcept {
    return advice == MADV_NORMAL || advice == MADV_RANDOM || advice == MADV_SEQUENTIAL ||
           advice == MADV_WILLNEED || advice == MADV_COLD || advice == MADV_PAGEOUT ||
           advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE;
}

// One advice that drops content, over a range that may hold several blocks and other
// memory. As in the kernel, a hole is reported at the end, and any other error ends it.
class Drop {
  public:
    Drop(char *addr, std::size_t len, int advice) noexcept
        : next_(addr), end_(addr + round_up(len)), advice_(advice) {}

    // In the order of addresses.
    void block(Block &block) noexcept {
        block.hands_off = true;
        if (!block.advised)
            return;
        char *const first = std::max(next_, block.addr.load());
        char *const last = std::min(end_, block.addr.load() + block.len.load());
        if (first >= last)
            return;
        pass_on(first);
        if (block.reshaped || !replace(first, last, PROT_READ | PROT_WRITE))
            by_mapping(first, last);
        next_ = last;
    }

    // The rest. 0, or -1 and errno.
    int finish() noexcept {
        pass_on(end_);
        if (error_ != 0)
            errno = error_;
        return error_ != 0 ? -1 : 0;
    }

    // True once memory that may have shown shared content is fresh.
    [[nodiscard]] bool replaced() const noexcept { return replaced_; }

  private:
    [[nodiscard]] bool over() const noexcept { return error_ != 0 && error_ != ENOMEM; }

    void note(bool fine) noexcept {
        if (!fine)
            error_ = errno;
    }

    // What is no block's, or never showed shared content: but the heap may.
    void pass_on(char *to) noexcept {
        if (next_ < to && in_advised_heap(next_, static_cast<std::size_t>(to - next_)))
            by_mapping(next_, to);
        else
            leave_to_kernel(to);
    }

    void leave_to_kernel(char *to) noexcept {
        if (next_ < to && !over())
            note(real().madvise(next_, static_cast<std::size_t>(to - next_), advice_) == 0);
        next_ = std::max(next_, to);
    }

    // Returns true if the kernel drops all of that, which it has done then. What the program
    // has locked it does not. To MADV_FREE it would object where there is shared content.
    [[nodiscard]] bool may_be_dropped(char *first, std::size_t len) const noexcept {
        const int error = errno;
        const int advice = advice_ == MADV_FREE ? MADV_DONTNEED : advice_;
        const bool refused = real().madvise(first, len, advice) != 0 && errno == EINVAL;
        errno = error;
        return !refused;
    }

    // Fresh memory, with no shared content below it. False: it is locked, or a part of it.
    [[nodiscard]] bool replace(char *first, char *last, int protection) noexcept {
        if (over())
            return true;
        const auto len = static_cast<std::size_t>(last - first);
        if (!may_be_dropped(first, len))
            return false;
        const int error = errno;
        const bool done = real().mmap(first, len, protection,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
        replaced_ = replaced_ || done;
        if (!done && (protection & PROT_WRITE) != 0) {
            std::memset(first, 0, len); // there may be no more mappings (vm.max_map_count)
            errno = error;
        } else {
            note(done);
        }
        next_ = last;
        return true;
    }

    // The same of one mapping, which is locked as a whole or not at all.
    void replace_mapping(char *first, char *last, int protection) noexcept {
        if (!replace(first, last, protection))
            error_ = EINVAL;
    }

    // Where parts differ, the kernel says which of them show shared content.
    void by_mapping(char *first, char *last) noexcept {
        if (sandboxed()) // which may not let us ask
            return replace_mapping(first, last, PROT_READ | PROT_WRITE);
        SmapsReader maps("/proc/self/maps");
        next_ = first;
        const auto start = reinterpret_cast<std::uintptr_t>(first);
        const auto end = reinterpret_cast<std::uintptr_t>(last);
        for (Vma vma; maps.next_header(vma) && vma.start < end;) {
            if (vma.end <= start || (vma.flags & kVmaSegment) == 0)
                continue;
            char *const from = first + (std::max(vma.start, start) - start);
            char *const to = first + (std::min(vma.end, end) - start);
            leave_to_kernel(from);
            replace_mapping(from, to, vma.protection);
        }
        leave_to_kernel(last);
    }

    char *next_;
    char *end_;
    int advice_;
    int error_ = 0;
    bool replaced_ = false;
};

int drop_content(void *addr, std::size_t len, int advice) noexcept {
    const Guard guard;
    Drop drop(static_cast<char *>(addr), len, advice);
    const int result = with_blocks(
        addr, len, [&](Block &block) { drop.block(block); }, [&] { return drop.finish(); });
    if (drop.replaced()) {
        const int error = errno;
        notice_unmapped();
        errno = error;
    }
    return result;
}

// Before the program does what cannot be done to a mapping of shared content. Returns true
// if the range may consist of several mappings now, where the program has one.
bool make_private(void *addr, std::size_t len) noexcept {
    const Guard guard;
    bool advised = false;
    with_blocks(
        addr, len,
        [&](Block &block) {
            advised = advised || block.advised;
            reshape(block);
        },
        [] {});
    // What is pinned would be pinned no more: it stays as it is, since what was written to it is
    // the program's own.
    if (advised && !sandboxed() && !something_pinned()) {
        upm_counts unused;
        (void)engine().submit({.addr = reinterpret_cast<std::uintptr_t>(addr),
                               .len = round_up(len),
                               .unmerge = true,
                               .holes = true}, // made by the program
                              unused);
    }
    return advised;
}

// --- process_madvise ---

ssize_t advise_process(int pid, const iovec *vector, std::size_t count, int advice,
                       unsigned flags) noexcept {
    constexpr long kNumber = 440; // of the system call; not in older headers
    return real().process_madvise != nullptr
               ? real().process_madvise(pid, vector, count, advice, flags)
               : ::syscall(kNumber, pid, vector, count, advice, flags);
}

// The kernel reads the vector first, and then does not know the advice.
bool can_be_read(int pid, const iovec *vector, std::size_t count) noexcept {
    constexpr int kNoAdvice = -1;
    const int error = errno;
    const bool read = advise_process(pid, vector, count, kNoAdvice, 0) != 0 && errno == EINVAL;
    errno = error;
    return read && count <= IOV_MAX;
}

// To others such advice may not be given, not even about nothing.
bool means_this_process(int pid) noexcept {
    const int error = errno;
    const iovec nothing{};
    const bool own = advise_process(pid, &nothing, 1, MADV_NORMAL, 0) == 0;
    errno = error;
    return own;
}

// One after the other, as the kernel does, which returns how much it came to.
ssize_t advise_each(const iovec *vector, std::size_t count, int advice) noexcept {
    std::size_t left = INT_MAX & ~(kPageSize - 1);
    for (std::size_t i = 0; i < count; ++i)
        if (vector[i].iov_len > SSIZE_MAX) {
            errno = EINVAL;
            return -1;
        }
    ssize_t done = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t len = std::min(vector[i].iov_len, left);
        if (len != 0 && ::madvise(vector[i].iov_base, len, advice) != 0)
            return done != 0 ? done : -1;
        left -= len;
        done += static_cast<ssize_t>(len);
    }
    return done;
}

// --- mprotect ---

template <class Action>
int protect(void *addr, std::size_t len, Action change) noexcept {
    if (watched())
        return with_blocks(addr, len, reshape, change);
    mark_reshaped(addr, len);
    return change();
}

// --- mremap ---

// Returns true if a range that is several mappings would be one without the hook: all of it
// can be read and written to, and nothing special is known of any part.
bool alike(const void *addr, std::size_t len) noexcept {
    if (sandboxed())
        return false;
    const Guard guard;
    const auto end = reinterpret_cast<std::uintptr_t>(addr) + round_up(len);
    auto next = reinterpret_cast<std::uintptr_t>(addr);
    SmapsReader maps(own_smaps());
    for (Vma vma; next < end && maps.next(vma);) {
        if (vma.end <= next)
            continue;
        if (vma.start > next || (vma.flags & ~std::uint32_t{kVmaSegment | kVmaFile}) != 0 ||
            (vma.flags & (kVmaSegment | kVmaFile)) == kVmaFile ||
            vma.protection != (PROT_READ | PROT_WRITE))
            return false;
        next = vma.end;
    }
    return next >= end;
}

// What mremap does, for memory that is several mappings: it moves only one.
void *move_by_copy(void *addr, std::size_t old_len, std::size_t len, int flags,
                   void *wished) noexcept {
    if ((flags & MREMAP_MAYMOVE) == 0) {
        errno = ENOMEM; // there is no room to grow
        return MAP_FAILED;
    }
    const int fixed = (flags & MREMAP_FIXED) != 0 ? MAP_FIXED : 0;
    void *const fresh = real().mmap(wished, len, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    if (fresh == MAP_FAILED)
        return MAP_FAILED;
    std::memcpy(fresh, addr, std::min(old_len, len));
    (void)real().munmap(addr, old_len);
    return fresh;
}

} // namespace

} // namespace upm::hook

using namespace upm::hook; // NOLINT(google-build-using-namespace): the hooks are C functions

// The heap may shrink, which it must not while it is being advised.
UPM_HOOK int malloc_trim(std::size_t pad) noexcept {
    if (!ready() || real().malloc_trim == nullptr)
        return 0;
    if (!watched())
        return real().malloc_trim(pad);
    const Change exclusive;
    Change::end_piece(nullptr, SIZE_MAX);
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
    if (!watched()) {
        forget_mapping(addr);
        return real().munmap(addr, len);
    }
    return cut_out(addr, len, [&] { return real().munmap(addr, len); });
}

UPM_HOOK void *mremap(void *addr, std::size_t old_len, std::size_t len, int flags, ...) noexcept {
    void *wished = nullptr;
    if ((flags & MREMAP_FIXED) != 0) {
        va_list arguments;
        va_start(arguments, flags);
        wished = va_arg(arguments, void *);
        va_end(arguments);
    }
    const bool careful = watched();
    const Block *const known = find_mapping(addr);
    const std::size_t all = known != nullptr ? known->len.load() : 0;
    const bool parts = careful && make_private(addr, old_len) && old_len != 0;
    if (known != nullptr)
        forget_mapping(addr);
    const auto move = [&] {
        void *const moved = real().mremap(addr, old_len, len, flags, wished);
        constexpr int kKnownFlags = MREMAP_MAYMOVE | MREMAP_FIXED;
        return moved == MAP_FAILED && errno == EFAULT && parts && (flags & ~kKnownFlags) == 0 &&
                       alike(addr, old_len)
                   ? move_by_copy(addr, old_len, len, flags, wished)
                   : moved;
    };
    void *const moved = careful && wished != nullptr ? cut_out(wished, len, move) : move();
    if (known != nullptr) {
        const int error = errno;
        const std::size_t gone = moved != MAP_FAILED ? round_up(old_len) : 0;
        if (moved != MAP_FAILED && wants(len))
            record_mapping(moved, len);
        if (gone < all) // it stays where it was, and may show shared content
            record_mapping(static_cast<char *>(addr) + gone, all - gone, true);
        errno = error;
    }
    return moved;
}

UPM_HOOK int mprotect(void *addr, std::size_t len, int prot) noexcept {
    return protect(addr, len, [&] { return real().mprotect(addr, len, prot); });
}

// With glibc 2.27.
UPM_HOOK int pkey_mprotect(void *addr, std::size_t len, int prot, int key) noexcept {
    return protect(addr, len, [&] {
        return real().pkey_mprotect != nullptr
                   ? real().pkey_mprotect(addr, len, prot, key)
                   : static_cast<int>(::syscall(SYS_pkey_mprotect, addr, len, prot, key));
    });
}

UPM_HOOK int madvise(void *addr, std::size_t len, int advice) noexcept {
    const bool careful = watched();
    if (!changes_nothing(advice) && page_aligned(addr) && round_up(len) >= len) {
        if (careful && drops_content(advice))
            return drop_content(addr, len, advice);
        // What else there is, and will be, means one thing for memory and another one for a
        // mapping of shared content: flags (MADV_DONTFORK), guards (MADV_GUARD_INSTALL).
        if (careful && !about_huge_pages(advice))
            (void)make_private(addr, len);
        else if (!drops_content(advice))
            mark_reshaped(addr, len, about_huge_pages(advice));
        else if (!Guard::active())
            for_each_block(addr, len, [](Block &block) { block.filled.clear(); });
    }
    return real().madvise(addr, len, advice);
}

// With glibc 2.36. Since Linux 6.13, a process may drop its own content by it.
UPM_HOOK ssize_t process_madvise(int pid, const iovec *vector, std::size_t count, int advice,
                                 unsigned flags) noexcept {
    if (watched() && !changes_nothing(advice) && flags == 0 && can_be_read(pid, vector, count) &&
        means_this_process(pid))
        return advise_each(vector, count, advice);
    return advise_process(pid, vector, count, advice, flags);
}

// A segment of System V may take the place of memory (SHM_REMAP).
UPM_HOOK void *shmat(int id, const void *addr, int flags) noexcept {
    (void)ready();
    const auto attach = [&] { return real().shmat(id, addr, flags); };
    if ((flags & SHM_REMAP) == 0 || addr == nullptr)
        return attach();
    const int error = errno;
    shmid_ds about{};
    const bool known = ::syscall(SYS_shmctl, id, IPC_STAT, &about) == 0;
    errno = error;
    if (!known) // nor can it be attached
        return attach();
    const auto offset = reinterpret_cast<std::uintptr_t>(addr) % kPageSize; // SHM_RND
    void *const first = const_cast<char *>(static_cast<const char *>(addr) - offset);
    if (watched())
        return cut_out(first, about.shm_segsz, attach);
    mark_reshaped(first, about.shm_segsz);
    return attach();
}
