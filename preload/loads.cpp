// SPDX-License-Identifier: MIT
#include "preload/loads.hpp"

#include "libupm/api/library.hpp"
#include "libupm/base/sharable_file.hpp"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/real.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <optional>
#include <unistd.h>

namespace upm::hook {

namespace {

// Below this, a plain read is as fast: bytes.
constexpr std::size_t kLeast = 256UL << 10U;

constinit std::atomic<std::size_t> threshold{SIZE_MAX};
// The process whose connections these are: a child that shares the memory (vfork) stays out.
constinit std::atomic<pid_t> home{0};
constinit std::atomic<std::uint64_t> shared{0}; // bytes
constinit std::atomic<std::uint64_t> made{0};

// The own block that holds all of this memory, and to which nothing special was done.
Block *block_of(const void *buffer, std::size_t len) noexcept {
    Block *const block = ::getpid() == home.load() ? block_map().before(buffer) : nullptr;
    if (block == nullptr || !block->own || block->state.load() != State::kLive ||
        block->hands_off || block->reshaped)
        return nullptr;
    const char *const start = block->addr;
    const auto *const at = static_cast<const char *>(buffer);
    const auto offset = static_cast<std::size_t>(at - start);
    return at >= start && offset < block->len && len <= block->len - offset ? block : nullptr;
}

// How much of a file that can be shared comes behind this offset, in bytes. Everything else
// is left to the kernel: its errors, its short reads, and how long it takes.
std::uint64_t rest_of(int fd, off_t offset) noexcept {
    const std::uint64_t size = offset >= 0 ? sharable_size(fd) : 0;
    return size - std::min<std::uint64_t>(size, static_cast<std::uint64_t>(offset));
}

// A handler that leaves a read by a jump would leave what the hook holds with it. The kernel
// runs none either while it reads a regular file.
class NoSignals {
  public:
    NoSignals() noexcept {
        sigset_t all;
        (void)::sigfillset(&all);
        (void)::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    NoSignals(const NoSignals &) = delete;
    NoSignals &operator=(const NoSignals &) = delete;
    ~NoSignals() { (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_{};
};

// Inside while segments are mapped over the block; see changes.hpp. The adviser's piece, if
// it lies there, ends.
class LoadGate final : public Gate {
  public:
    LoadGate(const void *buffer, std::size_t len) noexcept : buffer_(buffer), len_(len) {}

    bool enter() noexcept override {
        change_.emplace();
        Change::end_piece(buffer_, len_);
        return true;
    }
    bool leave() noexcept override {
        const bool inside = change_.has_value();
        change_.reset();
        return inside;
    }
    bool breathe() noexcept override { return true; }
    [[nodiscard]] bool over() const noexcept override { return all_pieces_ended(); }

  private:
    const void *buffer_;
    std::size_t len_;
    std::optional<Change> change_;
};

ssize_t load(Block &block, int fd, off_t offset, void *buffer, std::size_t len) noexcept {
    const Guard guard;
    const EntryGuard entry;
    block.advised = true; // before anything is mapped there: free() asks for it
    LoadGate gate(buffer, len);
    upm_load_counts counts{};
    const std::int64_t got = engine().load({.fd = fd,
                                            .offset = offset,
                                            .into = buffer,
                                            .len = len,
                                            .flags = UPM_LOAD_ORDINARY,
                                            .gate = &gate},
                                           counts);
    shared += counts.shared;
    made += counts.made;
    return got;
}

} // namespace

void fill_load_report(upm_hook_stats &report) noexcept {
    report.loaded_shared = shared.load();
    report.loaded_made = made.load();
}

void set_load_threshold(std::size_t bytes) noexcept {
    home = ::getpid();
    threshold = bytes == SIZE_MAX ? bytes : std::max(bytes, kLeast);
}

bool may_load(std::size_t len) noexcept {
    return len >= threshold.load(std::memory_order_relaxed) && !Guard::active() && ready();
}

bool load_at(int fd, off_t offset, void *buffer, std::size_t len, ssize_t &got) noexcept {
    const int error = errno;
    Block *const block = block_of(buffer, len);
    bool served = block != nullptr && rest_of(fd, offset) >= kLeast;
    if (served) {
        const NoSignals guard;
        got = load(*block, fd, offset, buffer, len);
        served = got >= 0;
    }
    errno = error;
    return served;
}

// One lseek takes the bytes and moves on, as one read would: another thread that reads
// from the same open file at the same time gets what comes behind them. It never goes
// behind the end of the file.
bool load_here(int fd, void *buffer, std::size_t len, ssize_t &got) noexcept {
    const int error = errno;
    Block *const block = block_of(buffer, len);
    const off_t here = block != nullptr ? ::lseek(fd, 0, SEEK_CUR) : -1;
    const std::uint64_t rest = here >= 0 ? rest_of(fd, here) : 0;
    bool served = rest >= kLeast;
    if (served) {
        const NoSignals guard;
        const auto step = static_cast<off_t>(std::min<std::uint64_t>(len, rest));
        const off_t end = ::lseek(fd, step, SEEK_CUR);
        if (end >= step)
            got = load(*block, fd, end - step, buffer, static_cast<std::size_t>(step));
        served = end >= step && got >= 0;
        const off_t back = (served ? static_cast<off_t>(got) : 0) - step;
        if (end >= 0 && back != 0)
            (void)::lseek(fd, back, SEEK_CUR);
    }
    errno = error;
    return served;
}

void loads_after_fork_child() noexcept {
    home = ::getpid();
}

} // namespace upm::hook
