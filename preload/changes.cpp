// SPDX-License-Identifier: MIT
#include "preload/changes.hpp"

#include "preload/loads.hpp"
#include "preload/local.hpp"
#include "preload/outsiders.hpp"
#include "preload/sandbox.hpp"

#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::hook {

namespace {

constinit std::atomic<bool> restores{true};
constinit std::atomic<bool> all_ended{false};
constinit std::atomic<std::uintptr_t> heap_start{0};
constinit std::atomic<std::uintptr_t> heap_end{0};

// The piece that the adviser is at; both 0: none. Under `change`.
constinit std::uintptr_t piece_start = 0;
constinit std::uintptr_t piece_end = 0;
constinit std::atomic<bool> piece_ended{false};

// The signals of the thread that holds `change` for a fork.
constinit sigset_t before_fork{};

// How deep this thread is inside of Change: a fork handler of somebody else may unmap. And
// whether it holds the lock: in a sandbox nobody is at a piece, and signals cannot be
// blocked.
[[gnu::tls_model("initial-exec")]] constinit thread_local int depth = 0;
[[gnu::tls_model("initial-exec")]] constinit thread_local bool holds = false;

void block_signals(sigset_t &before) noexcept {
    sigset_t everything;
    (void)::sigfillset(&everything);
    (void)::pthread_sigmask(SIG_SETMASK, &everything, &before);
}

void restore_signals(const sigset_t &before) noexcept {
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool intersects(const void *addr, std::size_t len, std::uintptr_t from,
                std::uintptr_t to) noexcept {
    const auto start = reinterpret_cast<std::uintptr_t>(addr);
    return start < to && (start >= from || len > from - start);
}

void begin(sigset_t &before) noexcept {
    if (depth > 0 || sandboxed()) {
        ++depth;
        return;
    }
    block_signals(before); // first: a handler must not take this thread for a holder
    depth = 1;
    Local &mine = local();
    mine.changers.fetch_add(1);
    mine.change.lock();
    if (mine.changers.fetch_sub(1) == 1)
        futex_wake_all(mine.changers);
    holds = true;
}

void end(const sigset_t &before) noexcept {
    if (--depth > 0 || !holds)
        return;
    holds = false;
    local().change.unlock();
    restore_signals(before);
}

} // namespace

bool may_restore() noexcept {
    return restores.load(std::memory_order_relaxed);
}

bool maps_over_blocks(const Info &found) noexcept {
    return found.restores != 0 ||
           (found.load == kLoadsWhileReading && std::strcmp(found.backend, "kmod") != 0);
}

void set_may_restore(bool may) noexcept {
    restores = may;
}

void set_advised_heap(std::uintptr_t start, std::uintptr_t end) noexcept {
    heap_start = start;
    heap_end = end;
}

bool in_advised_heap(const void *addr, std::size_t len) noexcept {
    return intersects(addr, len, heap_start, heap_end);
}

bool concerns_adviser(const void *addr, std::size_t len) noexcept {
    return any_block(addr, len) || in_advised_heap(addr, len);
}

Change::Change() noexcept {
    begin(before_);
}

Change::~Change() {
    end(before_);
}

void Change::end_piece(const void *addr, std::size_t len) noexcept {
    piece_ended = piece_ended || intersects(addr, len, piece_start, piece_end);
}

void change_before_fork() noexcept {
    sigset_t before{};
    begin(before);
    before_fork = before;
}

void change_after_fork_parent() noexcept {
    const sigset_t before = before_fork;
    end(before);
}

// The thread that was at a piece is not here.
void change_after_fork_child() noexcept {
    piece_start = 0;
    piece_end = 0;
    depth = 0;
    if (holds)
        restore_signals(before_fork);
    holds = false;
}

Piece::Piece(const Block *block, const char *addr, std::size_t len) noexcept : block_(block) {
    const Change exclusive;
    piece_start = reinterpret_cast<std::uintptr_t>(addr);
    piece_end = piece_start + len;
    piece_ended = false;
}

Piece::~Piece() {
    (void)leave();
    const Change exclusive;
    piece_start = 0;
    piece_end = 0;
}

// Those who change mappings come first.
bool Piece::enter() noexcept {
    constexpr std::uint64_t kPatienceNs = 1'000'000;
    block_signals(before_);
    Local &mine = local();
    if (const std::uint32_t waiting = mine.changers.load(); waiting != 0)
        futex_wait(mine.changers, waiting, kPatienceNs);
    // It begins with a time slice of its own: on a busy machine, whoever waits for `change`
    // waits mostly for a holder whose slice came to its end.
    (void)::syscall(SYS_sched_yield);
    mine.change.lock();
    inside_ = !over() &&
              (block_ == nullptr || (block_->state.load() == State::kBusy && !block_->hands_off));
    if (!inside_) {
        mine.change.unlock();
        restore_signals(before_);
    }
    return inside_;
}

bool Piece::leave() noexcept {
    if (!inside_)
        return false;
    inside_ = false;
    local().change.unlock();
    restore_signals(before_);
    return true;
}

bool Piece::breathe() noexcept {
    if (local().changers.load(std::memory_order_relaxed) == 0 && !over())
        return true;
    (void)leave();
    return enter();
}

bool Piece::over() const noexcept {
    return piece_ended || all_ended.load();
}

bool Piece::sole_writer() noexcept {
    return !outsiders_came();
}

void end_all_pieces() noexcept {
    all_ended = true;
}

bool all_pieces_ended() noexcept {
    return all_ended.load();
}

} // namespace upm::hook
