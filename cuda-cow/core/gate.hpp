// SPDX-License-Identifier: MIT
//
// Who may put work on a device, and who may change what is mapped there.
//
// A launch holds the device's gate shared while it is handed to the driver. Whoever
// changes mappings holds it exclusively, with the device idle. The device is waited for
// *before* the gate is taken, and under the gate only for a short time: a kernel may wait
// for one that another thread has yet to launch, as two ranks of a collective do, and
// that launch must not be kept out by who waits for the first.
#ifndef UPM_CUDA_CORE_GATE_HPP
#define UPM_CUDA_CORE_GATE_HPP

#include "cuda-cow/driver/driver.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <pthread.h>

namespace upm::cuda {

class RuntimeImpl;

// A thread that waits for it exclusively goes before later sharers: otherwise a few that
// launch all the time keep will_write out for good. So no thread may take it twice. A
// launch pays for two additions to one word, which holds how many share the gate, whether
// it is closed to others, and how often it was used.
class Gate {
  public:
    constexpr Gate() noexcept = default;
    Gate(const Gate &) = delete;
    Gate &operator=(const Gate &) = delete;
    ~Gate() = default; // trivial: it may be used while the process exits
    // False if it was not free in time.
    [[nodiscard]] bool try_lock_for(std::chrono::milliseconds limit) noexcept;
    void unlock() noexcept;
    void lock_shared() noexcept {
        if ((state_.fetch_add(kSharer, std::memory_order_acquire) & kClosed) != 0)
            wait_shared();
    }
    void unlock_shared() noexcept {
        if ((state_.fetch_add(kUse - kSharer, std::memory_order_release) & kClosed) != 0)
            wake();
    }
    // Counts up with each use that is over, modulo 2^32. Equal numbers before a wait for
    // the device and under the exclusive gate: nothing was launched since.
    [[nodiscard]] std::uint64_t uses() const noexcept {
        return state_.load(std::memory_order_acquire) / kUse;
    }

  private:
    static constexpr std::uint64_t kSharer = 1;
    static constexpr std::uint64_t kSharers = (1ULL << 24) - 1;
    static constexpr std::uint64_t kClosed = 1ULL << 31;
    static constexpr std::uint64_t kUse = 1ULL << 32;

    void wait_shared() noexcept;
    void wake() noexcept;
    void open() noexcept;
    bool wait_until_zero(std::uint64_t bits, const timespec &until) noexcept;

    std::atomic<std::uint64_t> state_{0};
    pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t changed_ = PTHREAD_COND_INITIALIZER;
};

// One for each device; of more than 64 devices some have one in common. They need no
// destructor: threads may launch while the process exits.
inline constexpr unsigned kGates = 64;
extern Gate gates[kGates]; // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
inline unsigned gate_index(abi::Device device) noexcept {
    return static_cast<unsigned>(device) % kGates;
}
inline Gate &gate_of(abi::Device device) noexcept {
    return gates[gate_index(device)];
}

// A thread that waits for the device, so that others can give up waiting.
class Waiter {
  public:
    Waiter(const DriverApi &api, abi::Context context);
    Waiter(const Waiter &) = delete;
    Waiter &operator=(const Waiter &) = delete;
    ~Waiter(); // waits for the thread, unless this is the child of a fork

    // Begins to wait for all work that the device has now; for finished().
    std::uint64_t begin();
    // True if that wait was over within the limit; `status` is then what it found.
    bool finished(std::uint64_t wait, std::chrono::milliseconds limit, abi::Status &status);

  private:
    struct Shared;
    const std::shared_ptr<Shared> shared_;
};

// While it exists, the device is idle and nobody launches. Pre: the runtime's context is
// current, and this thread holds no gate. If error() is not 0 it holds nothing: EFAULT
// (the context is lost), EBUSY (a stream is being captured), ETIMEDOUT (kernels of other
// threads waited for each other at every try).
class Exclusive {
  public:
    explicit Exclusive(const RuntimeImpl &runtime);
    Exclusive(const Exclusive &) = delete;
    Exclusive &operator=(const Exclusive &) = delete;
    ~Exclusive();
    [[nodiscard]] int error() const noexcept { return error_; }

  private:
    bool try_once(std::chrono::milliseconds limit);

    const RuntimeImpl &runtime_;
    Gate &gate_;
    int error_ = 0;
    bool held_ = false;
};

} // namespace upm::cuda

#endif // UPM_CUDA_CORE_GATE_HPP
