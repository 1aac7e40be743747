// SPDX-License-Identifier: MIT
#include "libupm/api/library.hpp"

#include "libupm/api/async.hpp"
#include "libupm/api/catalog.hpp"
#include "libupm/base/env.hpp"
#include "libupm/base/system.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <unistd.h>

namespace upm {

namespace {

// Whether the engine is started: a phase, and above it the process that is starting it.
// To start it is to look for a broker, which may take seconds. No lock is held for that:
// fork would wait for it. A child that was forked meanwhile starts the engine anew.
enum Phase : std::uint32_t { kFresh, kStarting, kStarted };
constexpr unsigned kPhaseBits = 2;
constinit std::atomic<std::uint32_t> start_state{kFresh};
constinit std::atomic<bool> announced{false};
// The second one is for look_again(), which finds another backend at most once.
constinit Engine engines[2];
constinit std::atomic<Engine *> the_engine{&engines[0]};
constinit std::atomic<std::uint32_t> looking{0}; // the process that is

void announce() noexcept {
    char line[Reason::kSize + 64];
    struct upm_info info {};
    the_engine.load()->info(info);
    const int wanted = std::snprintf(line, sizeof(line), "upm[%d]: backend %s: %s\n", ::getpid(),
                                     info.backend, info.reason);
    const std::size_t size =
        std::min(static_cast<std::size_t>(std::max(wanted, 0)), sizeof(line) - 1);
    // One write, so that lines of many processes do not mix.
    const ssize_t unused = ::write(STDERR_FILENO, line, size);
    (void)unused;
}

std::uint32_t starting_here() noexcept {
    return static_cast<std::uint32_t>(::getpid()) << kPhaseBits | kStarting;
}

// The engine has to know the values as they are: its reason names them.
void report_mistakes() noexcept {
    std::uint8_t key[16];
    (void)env::get(env::backend);
    (void)env::get(env::domain, key);
}

Wish wish() noexcept {
    return {.backend = env::raw(env::backend), .domain = env::raw(env::domain)};
}

// Starts the engine, or waits until another thread has.
void start() noexcept {
    const std::uint32_t mine = starting_here();
    std::uint32_t seen = start_state.load(std::memory_order_acquire);
    while (seen != kStarted) {
        if (seen == mine) {
            start_state.wait(seen, std::memory_order_acquire);
            seen = start_state.load(std::memory_order_acquire);
        } else if (start_state.compare_exchange_strong(seen, mine)) {
            report_mistakes();
            engines[0].start(wish(), default_catalog());
            start_state.store(kStarted, std::memory_order_release);
            start_state.notify_all();
            return;
        }
    }
}

// The backend and its descriptors go on in the child as they are; the worker
// thread does not.
void after_fork_child() noexcept {
    announced = false;
    async_after_fork_child();
}

// When the library is loaded, not at first use: a fork in another thread must
// never find the queue's lock held and the handlers not there yet.
[[gnu::constructor]] void watch_forks() noexcept {
    (void)::pthread_atfork(async_before_fork, async_after_fork_parent, after_fork_child);
}

} // namespace

Engine &engine() noexcept {
    if (start_state.load(std::memory_order_acquire) != kStarted)
        start();
    if (!announced.load(std::memory_order_relaxed) && !announced.exchange(true) &&
        env::get(env::verbose))
        announce();
    return *the_engine.load(std::memory_order_acquire);
}

bool is_last_resort() noexcept {
    const CatalogRow &last = default_catalog().back();
    return &engine().backend() == last.backend && wish().backend != last.name;
}

bool look_again() noexcept {
    if (!is_last_resort())
        return false;
    const Catalog catalog = default_catalog();
    const auto mine = static_cast<std::uint32_t>(::getpid());
    std::uint32_t other = looking.load();
    if (other == mine || !looking.compare_exchange_strong(other, mine))
        return false;
    Engine &next = engines[1];
    next.start(wish(), catalog);
    const bool found = &next.backend() != catalog.back().backend;
    if (found) {
        the_engine.store(&next, std::memory_order_release);
        announced = false;
    }
    looking = 0;
    return found;
}

bool look_again_by_now() noexcept {
    constexpr std::uint64_t kFirstNs = 1'000'000'000;
    constexpr std::uint64_t kLongestNs = 64'000'000'000;
    static constinit std::atomic<std::uint64_t> next{0};
    static constinit std::atomic<std::uint64_t> pause{kFirstNs};
    if (!is_last_resort())
        return false;
    std::uint64_t due = next.load();
    const std::uint64_t now = now_ns();
    if (now < due || !next.compare_exchange_strong(due, now + pause.load()))
        return false;
    pause = std::min(2 * pause.load(), kLongestNs);
    return due != 0 && look_again(); // not at once after the first look
}

Engine &engine_for_work() noexcept {
    (void)look_again_by_now();
    return engine();
}

} // namespace upm
