// SPDX-License-Identifier: MIT
//
// Reads of files into the hook's own large blocks: what the program reads comes to share
// while it is read (upm_load(3)). A read that cannot be served so is left to the real
// function, before anything was done.
#ifndef UPM_PRELOAD_LOADS_HPP
#define UPM_PRELOAD_LOADS_HPP

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <sys/types.h>
#include <sys/uio.h>
#include <upm/hook.h>

namespace upm::hook {

// upm_info.load of a backend that shares while it reads.
inline constexpr std::uint32_t kLoadsWhileReading = 2;

// Reads of so many bytes and above may come to share from now on, once it is known that the
// backend shares on load.
void expect_loads(std::size_t least) noexcept;

// The answer to that, which may change later; `awaited`: it is being waited for that. From the
// adviser's thread.
void set_loads(bool shared, bool awaited) noexcept;

// No more, for good.
void end_loads() noexcept;

namespace detail {
extern constinit std::atomic<std::size_t> load_threshold; // bytes; SIZE_MAX: none are served
bool may_load_now() noexcept;
} // namespace detail

// Returns false for reads that are too small to be served. Costs them a comparison.
inline bool is_large(std::size_t len) noexcept {
    return len >= detail::load_threshold.load(std::memory_order_relaxed);
}

// Returns true if a read of that size may be one to serve.
inline bool may_load(std::size_t len) noexcept {
    return is_large(len) && detail::may_load_now();
}

// The same for vectors of any size. Costs a comparison where loads are not shared.
inline bool may_load_vectors() noexcept {
    return detail::load_threshold.load(std::memory_order_relaxed) != SIZE_MAX;
}

// Returns true if what a vector asks for may be one to serve. The vector may be memory that
// cannot be read: to find that out costs a system call if it does not lie on the stack.
bool may_load_vector(const iovec *vector, int count) noexcept;

// Returns true if this is memory of one of the hook's own blocks, to which nothing special
// was done.
bool concerns_loads(const void *buffer, std::size_t len) noexcept;

// Reads what preadv(2) would. False: nothing was done, and the real function is to serve.
bool load_at(int fd, off_t offset, const iovec *vector, int count, ssize_t &got) noexcept;

// The same from the file's position, which moves on, as with readv(2).
bool load_here(int fd, const iovec *vector, int count, ssize_t &got) noexcept;

// While it lives, the backend may have descriptors of segments open, which a child that is forked
// meanwhile has no use for.
class UnderWay {
  public:
    UnderWay() noexcept;
    UnderWay(const UnderWay &) = delete;
    UnderWay &operator=(const UnderWay &) = delete;
    ~UnderWay();
};

// The child of a fork has connections of its own.
void loads_after_fork_child() noexcept;

// The sums of what was read so.
void fill_load_report(upm_hook_stats &report) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_LOADS_HPP
