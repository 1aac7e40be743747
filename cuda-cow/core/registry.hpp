// SPDX-License-Identifier: MIT
//
// Which addresses belong to buffers. Asked by the hook at every launch, so there
// is a way to say "none of ours" without a lock, and a table that threads keep.
#ifndef UPM_CUDA_CORE_REGISTRY_HPP
#define UPM_CUDA_CORE_REGISTRY_HPP

#include "cuda-cow/core/buffer_impl.hpp"

#include <atomic>

namespace upm::cuda::registry {

struct Entry {
    abi::DevicePtr start = 0;
    abi::DevicePtr end = 0;
    abi::Device device = 0;
    std::weak_ptr<BufferImpl> buffer;
};
using Table = std::vector<Entry>; // by address

void add(const std::shared_ptr<BufferImpl> &buffer);
void remove(const BufferImpl &buffer);

// The buffer that holds the address, or nullptr.
std::shared_ptr<BufferImpl> find(abi::DevicePtr address);
// The first buffer that ends behind the address, or nullptr.
std::shared_ptr<BufferImpl> find_next(abi::DevicePtr address);

// All buffers as they are now; good as long as `generation` stays what it was before.
std::shared_ptr<const Table> table();
extern std::atomic<std::uint64_t> generation;
// The devices that have buffers, by gate_index().
extern std::atomic<std::uint64_t> devices;
extern std::atomic<bool> forked;

// True in a child that was forked off when buffers existed already. A gate
// may be locked for good there, and CUDA does not work: the driver shall say so itself.
inline bool in_forked_child() noexcept {
    return forked.load(std::memory_order_relaxed);
}

// The entry that holds the address, or nullptr.
const Entry *find(const Table &table, abi::DevicePtr address) noexcept;

// All addresses of all buffers lie in between.
extern std::atomic<abi::DevicePtr> lowest;
extern std::atomic<abi::DevicePtr> highest;

inline bool may_hold(abi::DevicePtr address) noexcept {
    return address >= lowest.load(std::memory_order_relaxed) &&
           address < highest.load(std::memory_order_relaxed);
}

} // namespace upm::cuda::registry

#endif // UPM_CUDA_CORE_REGISTRY_HPP
