// SPDX-License-Identifier: MIT
//
// Which addresses belong to buffers. Asked by the hook at every launch, so there
// is a way to say "none of ours" without a lock.
#ifndef UPM_CUDA_CORE_REGISTRY_HPP
#define UPM_CUDA_CORE_REGISTRY_HPP

#include "cuda-cow/core/buffer_impl.hpp"

#include <atomic>

namespace upm::cuda::registry {

void add(const std::shared_ptr<BufferImpl> &buffer);
void remove(const BufferImpl &buffer);

// The buffer that holds the address, or nullptr.
std::shared_ptr<BufferImpl> find(abi::DevicePtr address);

// All addresses of all buffers lie in between.
extern std::atomic<abi::DevicePtr> lowest;
extern std::atomic<abi::DevicePtr> highest;

inline bool may_hold(abi::DevicePtr address) noexcept {
    return address >= lowest.load(std::memory_order_relaxed) &&
           address < highest.load(std::memory_order_relaxed);
}

} // namespace upm::cuda::registry

#endif // UPM_CUDA_CORE_REGISTRY_HPP
