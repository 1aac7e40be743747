// SPDX-License-Identifier: MIT
#include "preload/real.hpp"

#include "preload/keyed.hpp"
#include "preload/page.hpp"

#include <dlfcn.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::hook {

namespace {

constexpr std::size_t kEarlyBytes = 32UL * 1024;
alignas(64) constinit char early_memory[kEarlyBytes] = {};
constinit std::atomic<std::size_t> early_used{0};

enum State : int { kUnresolved, kResolving, kResolved };
constinit std::atomic<int> state{kUnresolved};
[[gnu::tls_model("initial-exec")]] constinit thread_local bool resolving_here = false;

template <class Function>
void find(Function &function, const char *name) noexcept {
    function = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

} // namespace

constinit thread_local int Guard::depth = 0;

namespace {

// What the table holds of the functions that are called most, until they are found: so that
// nobody has to ask first. Within the search itself the kernel is called.

ssize_t first_read(int fd, void *buffer, std::size_t len) {
    return ready() ? real().read(fd, buffer, len) : ::syscall(SYS_read, fd, buffer, len);
}

ssize_t first_pread(int fd, void *buffer, std::size_t len, off_t offset) {
    return ready() ? real().pread(fd, buffer, len, offset)
                   : ::syscall(SYS_pread64, fd, buffer, len, offset);
}

ssize_t first_readv(int fd, const iovec *vector, int count) {
    return ready() ? real().readv(fd, vector, count) : ::syscall(SYS_readv, fd, vector, count);
}

ssize_t first_preadv(int fd, const iovec *vector, int count, off_t offset) {
    return ready() ? real().preadv(fd, vector, count, offset)
                   : ::syscall(SYS_preadv, fd, vector, count, offset, 0L);
}

std::size_t first_fread(void *buffer, std::size_t size, std::size_t count, FILE *stream) {
    return ready() ? real().fread(buffer, size, count, stream) : 0;
}

std::size_t first_fread_unlocked(void *buffer, std::size_t size, std::size_t count, FILE *stream) {
    return ready() ? real().fread_unlocked(buffer, size, count, stream) : 0;
}

constexpr Real not_found_yet() noexcept {
    Real first;
    first.read = first_read;
    first.pread = first_pread;
    first.readv = first_readv;
    first.preadv = first_preadv;
    first.fread = first_fread;
    first.fread_unlocked = first_fread_unlocked;
    return first;
}

} // namespace

namespace detail {

constinit Real table = not_found_yet();
constinit std::atomic<bool> resolved{false};

void resolve() noexcept {
    if (resolving_here)
        return;
    int expected = kUnresolved;
    if (!state.compare_exchange_strong(expected, kResolving)) {
        while (state.load(std::memory_order_acquire) != kResolved)
            ::sched_yield();
        return;
    }
    resolving_here = true;
#define UPM_FIND(type, name, parameters) find(table.name, #name);
    UPM_HOOKED_FUNCTIONS(UPM_FIND)
#undef UPM_FIND
    resolving_here = false;
    resolved.store(true, std::memory_order_release);
    state.store(kResolved, std::memory_order_release);
    take_over_layout(); // by now, this thread is the only one
}

} // namespace detail

void *early_alloc(std::size_t size, std::size_t alignment) noexcept {
    const std::size_t wanted = size + alignment;
    if (wanted < size || wanted > kEarlyBytes)
        return nullptr;
    const std::size_t start = early_used.fetch_add(wanted);
    if (start > kEarlyBytes - wanted)
        return nullptr;
    const auto addr = reinterpret_cast<std::uintptr_t>(early_memory) + start;
    return reinterpret_cast<void *>((addr + alignment - 1) & ~(alignment - 1));
}

bool is_early(const void *pointer) noexcept {
    const auto offset =
        reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(early_memory);
    return offset < kEarlyBytes;
}

std::size_t early_rest(const void *pointer) noexcept {
    return static_cast<std::size_t>(early_memory + kEarlyBytes -
                                    static_cast<const char *>(pointer));
}

} // namespace upm::hook
