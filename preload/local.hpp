// SPDX-License-Identifier: MIT
//
// What the hook knows of this process alone: its locks, and whether its thread runs. It
// lies in a page that the kernel wipes in a child (MADV_WIPEONFORK, Linux 4.14), however
// that child was made: fork handlers do not run for a bare clone(2). So a lock that a
// thread of the parent held is free in the child, and nobody waits for a thread that the
// child does not have. A child that shares the memory (vfork) shares the page, too.
//
// Lock order: pass, change, then totals or late. While `pass` is held, the library may be waiting
// for a broker: so fork, exit and the calls that change mappings never take it. While `change` is
// held, nobody waits for anything but the kernel. Nothing is called while `totals` or `late` is
// held.
#ifndef UPM_PRELOAD_LOCAL_HPP
#define UPM_PRELOAD_LOCAL_HPP

#include <atomic>
#include <cstdint>

namespace upm::hook {

// Free when all its bytes are zero.
class Lock {
  public:
    void lock() noexcept;
    void unlock() noexcept;

  private:
    enum : std::uint32_t { kFree, kHeld, kWaitedFor };
    std::atomic<std::uint32_t> state_{kFree};
};

class Locked {
  public:
    explicit Locked(Lock &lock) noexcept : lock_(lock) { lock_.lock(); }
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;
    ~Locked() { lock_.unlock(); }

  private:
    Lock &lock_;
};

struct Local {
    Lock pass;                              // one pass at a time
    Lock change;                            // see changes.hpp
    Lock totals;                            // sums for the report
    Lock late;                              // see late.hpp
    std::atomic<std::uint32_t> changers{0}; // threads that wait for `change`
    std::atomic<bool> thread_runs{false};   // the adviser's
    std::atomic<bool> asleep{false};        // it is, and the bell wakes it
    std::atomic<bool> unmapped{false};      // what showed shared content, and nobody said so
};

Local &local() noexcept;

// Gets the page; without it (old kernels), a bare clone is not safe. Once, before the
// first block.
void make_local() noexcept;

// In the child of a fork: where the page is not wiped by the kernel.
void local_after_fork_child() noexcept;

// Sleeps while the word has this value, `ns` nanoseconds at most; UINT64_MAX: as long as
// it takes. May return early.
void futex_wait(std::atomic<std::uint32_t> &word, std::uint32_t value, std::uint64_t ns) noexcept;
void futex_wake_all(std::atomic<std::uint32_t> &word) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_LOCAL_HPP
