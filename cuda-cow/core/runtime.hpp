// SPDX-License-Identifier: MIT
//
// What the buffers of a process share: the driver, the device, the broker, and the
// kernels that hash and compare.
#ifndef UPM_CUDA_CORE_RUNTIME_HPP
#define UPM_CUDA_CORE_RUNTIME_HPP

#include "cuda-cow/broker/client.hpp"
#include "cuda-cow/core/gate.hpp"
#include "cuda-cow/driver/driver.hpp"
#include "cuda-cow/kernels/tag_core.hpp"

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <sys/types.h>
#include <upm/cuda.hpp>
#include <vector>

namespace upm::cuda {

// Physical memory and where it is mapped.
struct Piece {
    abi::DevicePtr address = 0;
    std::size_t bytes = 0;
};

// Hashes and compares device memory. Every call waits for its result. Pre: the
// context is current; at most kMaxItems pieces, of multiples of 4096 bytes.
class Hasher {
  public:
    Hasher() = default;
    Hasher(const Hasher &) = delete;
    Hasher &operator=(const Hasher &) = delete;
    virtual ~Hasher() = default;
    // `meanwhile`: called while the GPU works.
    using Meanwhile = std::function<void()>;
    virtual int tag(const std::vector<Piece> &pieces, const kernels::Keys &keys,
                    std::vector<Tag> &tags, const Meanwhile &meanwhile = {}) = 0;
    virtual int compare(const std::vector<Piece> &pieces, const std::vector<abi::DevicePtr> &others,
                        std::vector<bool> &different, const Meanwhile &meanwhile = {}) = 0;
    [[nodiscard]] virtual const char *name() const noexcept = 0;
    // Events to record around the kernels of each call, for who measures; null: none.
    void mark(abi::Event before, abi::Event after) noexcept {
        before_ = before;
        after_ = after;
    }

  protected:
    abi::Event before_ = nullptr;
    abi::Event after_ = nullptr;
};

class Spares;

class RuntimeImpl {
  public:
    RuntimeImpl() = default;
    RuntimeImpl(const RuntimeImpl &) = delete;
    RuntimeImpl &operator=(const RuntimeImpl &) = delete;
    ~RuntimeImpl();

    int open(const RuntimeOptions &options);

    // 0, or the errno of `status` with the text "WHAT: CUDA_ERROR_… (n)".
    int check(abi::Status status, const char *what) const;

    // Of the memory that is created: exportable, on the device.
    [[nodiscard]] abi::MemAllocationProp properties() const noexcept;
    // New physical memory; a multiple of the granularity. Spares go if there is no other.
    int create(std::size_t bytes, abi::Handle &handle) const;
    [[nodiscard]] int set_access(const Piece &piece, int access) const;
    // Unmaps neighbours: in one call, or, should the driver not take many mappings at
    // once, one by one. `done`: how many are unmapped, from the first on.
    int unmap(std::span<const Piece> neighbours, std::size_t &done) const;
    // Error: ENODEV (this process is a child of the one that opened the runtime).
    // Asked before any lock is taken, which the fork may have left locked.
    [[nodiscard]] int check_process() const;
    [[nodiscard]] bool forked() const noexcept;
    // Waits for the library's own stream; tries harder before it gives up, since the
    // callers then unmap what the stream's work uses.
    int drain(const char *what) const;

    DriverApi api;
    abi::Device device = 0;
    abi::Context context = nullptr;
    abi::Stream stream = nullptr; // the library's own; waits for no other
    std::size_t granularity = 0;
    std::unique_ptr<Hasher> hasher;
    std::unique_ptr<Waiter> waiter; // for Exclusive
    std::unique_ptr<broker::Client> broker;
    std::unique_ptr<Spares> spares;
    // From asking the broker until what it promised is published or given back: the
    // process is one member, and a member that waits may hold no promise. Taken by advise
    // and attach only: neither a write nor a launch waits for it.
    std::mutex negotiation;

  private:
    int open_device(int ordinal);
    pid_t pid_ = 0; // of the process that opened it
};

// Makes the runtime's context current on this thread, and puts back what was.
class CurrentContext {
  public:
    explicit CurrentContext(const RuntimeImpl &runtime);
    CurrentContext(const CurrentContext &) = delete;
    CurrentContext &operator=(const CurrentContext &) = delete;
    ~CurrentContext();

  private:
    const RuntimeImpl &runtime_;
    abi::Context before_ = nullptr;
    InsideLibrary inside_;
};

// Addresses where physical memory is mapped for a while, one piece after the other.
class Window {
  public:
    explicit Window(const RuntimeImpl &runtime) : runtime_(runtime) {}
    Window(const Window &) = delete;
    Window &operator=(const Window &) = delete;
    ~Window() { (void)close(); }

    // Maps all or nothing.
    int open(const std::vector<abi::Handle> &handles, const std::vector<std::size_t> &bytes,
             int access);
    int close();
    [[nodiscard]] const std::vector<Piece> &pieces() const noexcept { return pieces_; }

  private:
    const RuntimeImpl &runtime_;
    abi::DevicePtr address_ = 0;
    std::size_t bytes_ = 0;
    std::vector<Piece> pieces_;
};

// Kernels if there are any for the device, else nullptr with the reason in
// last_error(); and the one that copies to the host.
std::unique_ptr<Hasher> make_device_hasher(const RuntimeImpl &runtime);
std::unique_ptr<Hasher> make_host_hasher(const RuntimeImpl &runtime);

} // namespace upm::cuda

#endif // UPM_CUDA_CORE_RUNTIME_HPP
