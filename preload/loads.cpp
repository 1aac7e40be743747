// SPDX-License-Identifier: MIT
#include "preload/loads.hpp"

#include "libupm/api/library.hpp"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/real.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::hook {

namespace {

// Below this, a plain read is as fast: bytes.
constexpr std::size_t kLeast = 256UL << 10U;

constinit std::atomic<std::size_t> threshold{SIZE_MAX};
constinit std::atomic<std::uint64_t> shared{0}; // bytes
constinit std::atomic<std::uint64_t> made{0};

// The own block that holds all of this memory, and to which nothing special was done.
Block *block_of(const void *buffer, std::size_t len) noexcept {
    Block *const block = block_map().before(buffer);
    if (block == nullptr || !block->own || block->state.load() != State::kLive ||
        block->hands_off || block->reshaped)
        return nullptr;
    const char *const start = block->addr;
    const auto *const at = static_cast<const char *>(buffer);
    const auto offset = static_cast<std::size_t>(at - start);
    return at >= start && offset < block->len && len <= block->len - offset ? block : nullptr;
}

// A regular file with that much of it left: everything else is left to the kernel, whose
// errors are the program's.
bool worth_it(int fd, off_t offset) noexcept {
    struct stat status {};
    return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && offset >= 0 &&
           status.st_size > offset && static_cast<std::uint64_t>(status.st_size - offset) >= kLeast;
}

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
    threshold = bytes == SIZE_MAX ? bytes : std::max(bytes, kLeast);
}

bool may_load(std::size_t len) noexcept {
    return len >= threshold.load(std::memory_order_relaxed) && !Guard::active() && ready();
}

bool load_at(int fd, off_t offset, void *buffer, std::size_t len, ssize_t &got) noexcept {
    const int error = errno;
    Block *const block = block_of(buffer, len);
    const bool served = block != nullptr && worth_it(fd, offset);
    if (served)
        got = load(*block, fd, offset, buffer, len);
    errno = error;
    return served && got >= 0;
}

// One lseek takes the bytes and moves on, as one read would: another thread that reads
// from the same open file at the same time gets what comes behind them.
bool load_here(int fd, void *buffer, std::size_t len, ssize_t &got) noexcept {
    const int error = errno;
    Block *const block = block_of(buffer, len);
    if (block == nullptr || len > static_cast<std::size_t>(INT64_MAX))
        return false;
    const auto step = static_cast<off_t>(len);
    const off_t here = ::lseek(fd, 0, SEEK_CUR);
    bool served = here >= 0 && worth_it(fd, here);
    const off_t end = served ? ::lseek(fd, step, SEEK_CUR) : -1;
    served = end >= 0;
    if (served) {
        got = load(*block, fd, end - step, buffer, len);
        const off_t back = (got > 0 ? static_cast<off_t>(got) : 0) - step;
        if (back != 0)
            (void)::lseek(fd, back, SEEK_CUR);
    }
    errno = error;
    return served && got >= 0;
}

} // namespace upm::hook
