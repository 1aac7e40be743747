// SPDX-License-Identifier: MIT
#include "cuda-cow/core/gate.hpp"

#include "cuda-cow/core/runtime.hpp"

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unistd.h>

namespace upm::cuda {

namespace {

using std::chrono::milliseconds;

// How long launches of others may be kept waiting at the first try, and at the last.
constexpr milliseconds kFirstHold{20};
constexpr milliseconds kLastHold{1280};
constexpr unsigned kTries = 24;
constexpr milliseconds kForever = std::chrono::hours(24 * 365);

} // namespace

constinit Gate gates[kGates];

// Pre: the lock is held, for this one and the next.
bool Gate::wait_until_zero(std::uint64_t bits, const timespec &until) noexcept {
    while ((state_.load(std::memory_order_acquire) & bits) != 0)
        if (::pthread_cond_clockwait(&changed_, &lock_, CLOCK_MONOTONIC, &until) != 0)
            return (state_.load(std::memory_order_acquire) & bits) == 0;
    return true;
}

void Gate::open() noexcept {
    state_.fetch_and(~kClosed, std::memory_order_release);
    (void)::pthread_cond_broadcast(&changed_);
}

bool Gate::try_lock_for(milliseconds limit) noexcept {
    timespec until = {};
    (void)::clock_gettime(CLOCK_MONOTONIC, &until);
    const std::int64_t nanoseconds = until.tv_nsec + std::chrono::nanoseconds(limit).count();
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    (void)::pthread_mutex_lock(&lock_);
    bool taken = wait_until_zero(kClosed, until);
    if (taken) {
        state_.fetch_or(kClosed, std::memory_order_acq_rel);
        taken = wait_until_zero(kSharers, until);
        if (!taken)
            open();
    }
    (void)::pthread_mutex_unlock(&lock_);
    return taken;
}

void Gate::unlock() noexcept {
    (void)::pthread_mutex_lock(&lock_);
    open();
    (void)::pthread_mutex_unlock(&lock_);
}

// For whoever closed the gate and waits until nobody shares it: it looks under the lock.
void Gate::wake() noexcept {
    (void)::pthread_mutex_lock(&lock_);
    (void)::pthread_cond_broadcast(&changed_);
    (void)::pthread_mutex_unlock(&lock_);
}

// Steps back, and comes again once the gate is open.
void Gate::wait_shared() noexcept {
    do {
        state_.fetch_sub(kSharer, std::memory_order_release);
        (void)::pthread_mutex_lock(&lock_);
        (void)::pthread_cond_broadcast(&changed_);
        while ((state_.load(std::memory_order_relaxed) & kClosed) != 0)
            (void)::pthread_cond_wait(&changed_, &lock_);
        (void)::pthread_mutex_unlock(&lock_);
    } while ((state_.fetch_add(kSharer, std::memory_order_acquire) & kClosed) != 0);
}

// Outlives the waiter while the thread uses it.
struct Waiter::Shared {
    std::mutex lock;
    std::condition_variable changed;
    std::uint64_t wanted = 0;
    std::uint64_t done = 0;
    abi::Status status = abi::kSuccess;
    bool started = false;
    bool stop = false;
    bool over = false;
    DriverApi api;
    abi::Context context = nullptr;
    pid_t pid = 0;

    void work();
};

void Waiter::Shared::work() {
    const InsideLibrary inside; // for the hook: this thread is the library's own
    (void)api.ctx_set(context);
    std::unique_lock<std::mutex> guard(lock);
    for (;;) {
        changed.wait(guard, [&] { return stop || wanted != done; });
        if (stop)
            break;
        const std::uint64_t target = wanted;
        guard.unlock();
        const abi::Status found = api.ctx_synchronize();
        guard.lock();
        status = found;
        done = target;
        changed.notify_all();
    }
    over = true;
    changed.notify_all();
}

Waiter::Waiter(const DriverApi &api, abi::Context context) : shared_(std::make_shared<Shared>()) {
    shared_->api = api;
    shared_->context = context;
    shared_->pid = ::getpid();
}

Waiter::~Waiter() {
    if (shared_->pid != ::getpid())
        return;
    std::unique_lock<std::mutex> guard(shared_->lock);
    shared_->stop = true;
    shared_->changed.notify_all();
    shared_->changed.wait(guard, [&] { return !shared_->started || shared_->over; });
}

std::uint64_t Waiter::begin() {
    const std::lock_guard<std::mutex> guard(shared_->lock);
    if (!shared_->started) {
        std::thread([shared = shared_] { shared->work(); }).detach();
        shared_->started = true;
    }
    ++shared_->wanted;
    shared_->changed.notify_all();
    return shared_->wanted;
}

bool Waiter::finished(std::uint64_t wait, milliseconds limit, abi::Status &status) {
    std::unique_lock<std::mutex> guard(shared_->lock);
    if (!shared_->changed.wait_for(guard, limit, [&] { return shared_->done >= wait; }))
        return false;
    status = shared_->status;
    return true;
}

Exclusive::Exclusive(const RuntimeImpl &runtime)
    : runtime_(runtime), gate_(gate_of(runtime.device)) {
    milliseconds hold = kFirstHold;
    for (unsigned tries = 0; tries < kTries && !held_ && error_ == 0; ++tries) {
        if (try_once(hold))
            return;
        hold = std::min(2 * hold, kLastHold);
    }
    if (error_ == 0)
        error_ = fail(ETIMEDOUT, "the device does not become idle: kernels of other threads wait "
                                 "for each other");
}

// Waits with the gate open; under the gate only for what was launched meanwhile.
bool Exclusive::try_once(milliseconds limit) {
    const std::uint64_t before = gate_.uses();
    error_ = runtime_.check(runtime_.api.ctx_synchronize(), "waiting for the device");
    if (error_ != 0 || !gate_.try_lock_for(limit))
        return false;
    held_ = true;
    if (gate_.uses() == before)
        return true;
    const std::uint64_t wait = runtime_.waiter->begin();
    abi::Status status = abi::kSuccess;
    const bool idle = runtime_.waiter->finished(wait, limit, status);
    if (idle && status == abi::kSuccess)
        return true;
    gate_.unlock();
    held_ = false;
    if (!idle)
        (void)runtime_.waiter->finished(wait, kForever, status);
    error_ = runtime_.check(status, "waiting for the device");
    return false;
}

Exclusive::~Exclusive() {
    if (held_)
        gate_.unlock();
}

} // namespace upm::cuda
