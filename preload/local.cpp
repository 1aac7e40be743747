// SPDX-License-Identifier: MIT
#include "preload/local.hpp"

#include "preload/page.hpp"
#include "preload/real.hpp"

#include <climits>
#include <cstring>
#include <ctime>
#include <linux/futex.h>
#include <new>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::hook {

namespace {

constinit Local in_library;
constinit Local *current = &in_library;

} // namespace

void Lock::lock() noexcept {
    std::uint32_t expected = kFree;
    if (state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire)) [[likely]]
        return;
    while (state_.exchange(kWaitedFor, std::memory_order_acquire) != kFree)
        futex_wait(state_, kWaitedFor, UINT64_MAX);
}

void Lock::unlock() noexcept {
    if (state_.exchange(kFree, std::memory_order_release) == kWaitedFor)
        (void)::syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

Local &local() noexcept {
    return *current;
}

void make_local() noexcept {
    void *const page =
        real().mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    if (real().madvise(page, kPageSize, MADV_WIPEONFORK) == 0)
        current = new (page) Local;
    else
        (void)real().munmap(page, kPageSize);
}

void local_after_fork_child() noexcept {
    new (current) Local;
}

void futex_wait(std::atomic<std::uint32_t> &word, std::uint32_t value, std::uint64_t ns) noexcept {
    timespec timeout{};
    timeout.tv_sec = static_cast<time_t>(ns / 1'000'000'000U);
    timeout.tv_nsec = static_cast<long>(ns % 1'000'000'000U);
    (void)::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value,
                    ns == UINT64_MAX ? nullptr : &timeout, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t> &word) noexcept {
    (void)::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

} // namespace upm::hook
