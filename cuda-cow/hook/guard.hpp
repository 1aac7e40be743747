// SPDX-License-Identifier: MIT
//
// What the hook does around a driver call. It is part of libupm-cuda, beside the
// buffers that it protects; preload.cpp only brings it between program and driver.
#ifndef UPM_CUDA_HOOK_GUARD_HPP
#define UPM_CUDA_HOOK_GUARD_HPP

#include "cuda-cow/driver/driver.hpp"
#include "cuda-cow/hook/evidence.hpp"

#include <upm/cuda.hpp>

namespace upm::cuda::hook {

// How to ask the driver about a function; either may be missing.
struct Inspector {
    abi::Status (*name)(const char **, abi::Function) = nullptr;
    abi::Status (*param)(abi::Function, std::size_t, std::size_t *, std::size_t *) = nullptr;
};

// Held while a launch, copy or memset is handed to the driver. The constructor makes
// private copies of what will be written; status() is then what to return instead of
// calling, if that failed. Costs two loads while no buffer exists.
class UPM_API Guard {
  public:
    // A kernel, with the parameters as given to cuLaunchKernel.
    Guard(const Inspector &inspector, abi::Function function, void **parameters,
          void **extra) noexcept;
    // A copy or memset.
    Guard(abi::DevicePtr to, std::size_t bytes) noexcept;
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard();
    [[nodiscard]] abi::Status status() const noexcept { return status_; }

  private:
    abi::Status status_ = abi::kSuccess;
    bool gate_ = false;
    void *lesson_ = nullptr; // what is learned from this launch
};

// Remembers what the PTX of a module says, if `image` is PTX text.
UPM_API void note_image(const void *image) noexcept;
// Function handles may mean something else from now on.
UPM_API void forget_functions() noexcept;
// Declares that `function` (mangled name) writes through its parameter `index`.
UPM_API void declare_write(const char *function, unsigned index) noexcept;

// Passes `status` on; if it says that the context is lost, prints once which recent
// launches had shared memory among their arguments. `synchronized`: the call waited
// for all work, so that what came before is known to be well.
UPM_API abi::Status watch(abi::Status status, bool synchronized) noexcept;

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_GUARD_HPP
