// SPDX-License-Identifier: MIT
//
// What the hook does around a driver call. It is part of libupm-cuda, beside the
// buffers that it protects; preload.cpp only brings it between program and driver.
#ifndef UPM_CUDA_HOOK_GUARD_HPP
#define UPM_CUDA_HOOK_GUARD_HPP

#include "cuda-cow/driver/driver.hpp"
#include "cuda-cow/hook/evidence.hpp"

#include <array>
#include <cstddef>
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
// private copies of what will be written, and keeps the mappings of what is used as
// they are until the call is over; status() is then what to return instead of calling,
// if that failed. What is captured into a graph is left for the graph's launch. Costs
// a load while no buffer exists.
class UPM_API Guard {
  public:
    // A kernel, with the parameters as given to cuLaunchKernel.
    Guard(const Inspector &inspector, abi::Function function, void **parameters, void **extra,
          abi::Stream stream) noexcept;
    // Copies and memsets, and launches of graphs.
    Guard(const Inspector &inspector, const Accesses &accesses, abi::Stream stream) noexcept;
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard();
    [[nodiscard]] abi::Status status() const noexcept { return status_; }

  private:
    struct Work;
    void enter(const Inspector &inspector, abi::Stream stream);

    abi::Status status_ = abi::kSuccess;
    bool gate_ = false;
    std::unique_ptr<Work> work_; // what has to be done in the end
};

// Remembers what the PTX of a module says, if `image` is PTX text.
UPM_API void note_image(const void *image) noexcept;
// A handle that cuLaunchKernel takes in the place of a function.
UPM_API void note_kernel(abi::Kernel kernel, abi::Library library) noexcept;
// Function handles may mean something else from now on; with a library, its kernels'.
UPM_API void forget_functions(abi::Library library = nullptr) noexcept;
// Declares that `function` (mangled name) writes through its parameter `index`.
UPM_API void declare_write(const char *function, unsigned index) noexcept;

// Passes `status` on; if it says that the context is lost, prints once which recent
// launches had shared memory among their arguments. `synchronized`: the call waited
// for all work, so that what came before is known to be well.
UPM_API abi::Status watch(abi::Status status, bool synchronized) noexcept;

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_GUARD_HPP
