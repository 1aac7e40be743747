// SPDX-License-Identifier: MIT
#include "cuda-cow/core/registry.hpp"

#include <limits>
#include <map>

namespace upm::cuda::registry {

std::atomic<abi::DevicePtr> lowest{std::numeric_limits<abi::DevicePtr>::max()};
std::atomic<abi::DevicePtr> highest{0};

namespace {

struct Registry {
    std::shared_mutex lock;
    std::map<abi::DevicePtr, std::weak_ptr<BufferImpl>> buffers;
};

Registry &all() {
    static auto *const only = new Registry; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

} // namespace

void add(const std::shared_ptr<BufferImpl> &buffer) {
    const std::unique_lock<std::shared_mutex> guard(all().lock);
    all().buffers[buffer->address()] = buffer;
    lowest = std::min(lowest.load(), buffer->address());
    highest = std::max(highest.load(), buffer->address() + buffer->mapped_bytes());
}

void remove(const BufferImpl &buffer) {
    const std::unique_lock<std::shared_mutex> guard(all().lock);
    all().buffers.erase(buffer.address());
}

std::shared_ptr<BufferImpl> find(abi::DevicePtr address) {
    const std::shared_lock<std::shared_mutex> guard(all().lock);
    auto at = all().buffers.upper_bound(address);
    if (at == all().buffers.begin())
        return nullptr;
    std::shared_ptr<BufferImpl> buffer = std::prev(at)->second.lock();
    if (buffer == nullptr || address - buffer->address() >= buffer->mapped_bytes())
        return nullptr;
    return buffer;
}

} // namespace upm::cuda::registry
