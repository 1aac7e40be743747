// SPDX-License-Identifier: MIT
//
// What the hook does around a driver call. It is part of libupm-cuda, beside the
// buffers that it protects; preload.cpp only brings it between program and driver.
#ifndef UPM_CUDA_HOOK_GUARD_HPP
#define UPM_CUDA_HOOK_GUARD_HPP

#include "cuda-cow/driver/driver.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <upm/cuda.hpp>
#include <vector>

namespace upm::cuda::hook {

// How to ask the driver; any may be missing.
struct Inspector {
    abi::Status (*name)(const char **, abi::Function) = nullptr;
    abi::Status (*param)(abi::Function, std::size_t, std::size_t *, std::size_t *) = nullptr;
    abi::Status (*function)(abi::Function *, abi::Kernel) = nullptr;
    abi::Status (*capturing)(abi::Stream, int *) = nullptr;
    abi::Status (*device)(abi::Device *) = nullptr; // of the current context
};

// Device memory that a call uses.
struct Access {
    abi::DevicePtr at = 0;
    std::size_t bytes = 0;
    bool writes = false;
};

// All of one call: two without allocating, more if need be.
struct Accesses {
    std::array<Access, 2> few;
    std::vector<Access> many;
};

// Held while a launch, copy or memset is handed to the driver. The constructor makes
// private copies of what will be written, and keeps the mappings of the device as they
// are until the call is over; status() is then what to return instead of calling, if
// that failed. A launch keeps *all* mappings of its device, since a kernel may find
// pointers in device memory that no argument shows. What is captured into a graph is left
// for the graph's launch. Costs a load while no buffer exists.
class UPM_API Guard {
  public:
    // A kernel, with the parameters as given to cuLaunchKernel.
    Guard(const Inspector &inspector, abi::Function function, void **parameters, void **extra,
          abi::Stream stream) noexcept;
    // Kernels of several devices at once.
    Guard(const Inspector &inspector, const abi::LaunchParams *all, unsigned count) noexcept;
    // A graph.
    Guard(const Inspector &inspector, abi::GraphExec exec, abi::Stream stream) noexcept;
    // Copies and memsets.
    Guard(const Inspector &inspector, const Accesses &accesses, abi::Stream stream) noexcept;
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard();
    [[nodiscard]] abi::Status status() const noexcept { return status_; }

  private:
    struct Work;
    void take(std::uint64_t gates) noexcept;
    void give_back() noexcept;
    void enter(const Inspector &inspector, std::uint64_t gates, abi::Stream stream);

    abi::Status status_ = abi::kSuccess;
    bool entered_ = false;
    std::uint64_t gates_ = 0;    // that are held, by gate_index()
    std::unique_ptr<Work> work_; // what has to be done in the end
};

// A handle that cuLaunchKernel takes in the place of a function.
UPM_API void note_kernel(abi::Kernel kernel, abi::Library library) noexcept;
// Function handles may mean something else from now on; with a library, its kernels'.
UPM_API void forget_functions(abi::Library library = nullptr) noexcept;

// Passes `status` on; if it says that the context is lost, prints once which recent
// launches had shared memory among their arguments. `synchronized`: the call waited
// for all work, so that what came before is known to be well.
UPM_API abi::Status watch(abi::Status status, bool synchronized) noexcept;

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_GUARD_HPP
