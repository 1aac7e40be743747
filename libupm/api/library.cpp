// SPDX-License-Identifier: MIT
#include "libupm/api/library.hpp"

#include "libupm/api/async.hpp"
#include "libupm/api/catalog.hpp"
#include "libupm/base/env.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <unistd.h>

namespace upm {

namespace {

// Order of locks: start_lock, then the lock of the queue (async.cpp). None is
// held while a backend works.
constinit std::mutex start_lock;
constinit std::atomic<bool> started{false};
constinit std::atomic<bool> announced{false};
constinit Engine the_engine;

void announce() noexcept {
    char line[Reason::kSize + 64];
    struct upm_info info {};
    the_engine.info(info);
    const int wanted = std::snprintf(line, sizeof(line), "upm[%d]: backend %s: %s\n", ::getpid(),
                                     info.backend, info.reason);
    const std::size_t size =
        std::min(static_cast<std::size_t>(std::max(wanted, 0)), sizeof(line) - 1);
    // One write, so that lines of many processes do not mix.
    const ssize_t unused = ::write(STDERR_FILENO, line, size);
    (void)unused;
}

void before_fork() noexcept {
    start_lock.lock();
    async_before_fork();
}

void after_fork_parent() noexcept {
    async_after_fork_parent();
    start_lock.unlock();
}

// The backend and its descriptors go on in the child as they are; the worker
// thread does not.
void after_fork_child() noexcept {
    announced = false;
    async_after_fork_child();
    start_lock.unlock();
}

// When the library is loaded, not at first use: a fork in another thread must
// never find start_lock held and the handlers not there yet.
[[gnu::constructor]] void watch_forks() noexcept {
    (void)::pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

} // namespace

Engine &engine() noexcept {
    if (!started.load(std::memory_order_acquire)) {
        const std::lock_guard<std::mutex> guard(start_lock);
        if (!started.load(std::memory_order_relaxed)) {
            const Wish wish{.backend = env::text(env::backend), .domain = env::text(env::domain)};
            the_engine.start(wish, default_catalog());
            started.store(true, std::memory_order_release);
        }
    }
    if (!announced.load(std::memory_order_relaxed) && !announced.exchange(true) &&
        env::flag(env::verbose))
        announce();
    return the_engine;
}

} // namespace upm
