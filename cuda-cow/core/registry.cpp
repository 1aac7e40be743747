// SPDX-License-Identifier: MIT
#include "cuda-cow/core/registry.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <pthread.h>
#include <shared_mutex>

namespace upm::cuda::registry {

std::atomic<abi::DevicePtr> lowest{std::numeric_limits<abi::DevicePtr>::max()};
std::atomic<abi::DevicePtr> highest{0};
std::atomic<std::uint64_t> generation{1};
std::atomic<std::uint64_t> devices{0};
std::atomic<bool> forked{false};

namespace {

struct Registry {
    std::shared_mutex lock;
    std::map<abi::DevicePtr, Entry> buffers;
    std::shared_ptr<const Table> table; // made when asked for
};

Registry &all() {
    static auto *const only = new Registry; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

// Pre: the lock is held exclusively.
void changed() {
    std::uint64_t now = 0;
    for (const auto &[address, entry] : all().buffers)
        now |= std::uint64_t{1} << gate_index(entry.device);
    devices = now;
    all().table.reset();
    ++generation;
}

} // namespace

void add(const std::shared_ptr<BufferImpl> &buffer) {
    static const int watching = ::pthread_atfork(nullptr, nullptr, [] { forked = true; });
    (void)watching;
    const std::unique_lock<std::shared_mutex> guard(all().lock);
    const abi::DevicePtr end = buffer->address() + buffer->mapped_bytes();
    all().buffers[buffer->address()] = {buffer->address(), end, buffer->device(), buffer};
    lowest = std::min(lowest.load(), buffer->address());
    highest = std::max(highest.load(), end);
    changed();
}

void remove(const BufferImpl &buffer) {
    const std::unique_lock<std::shared_mutex> guard(all().lock);
    all().buffers.erase(buffer.address());
    changed();
}

std::shared_ptr<BufferImpl> find(abi::DevicePtr address) {
    const std::shared_lock<std::shared_mutex> guard(all().lock);
    const auto at = all().buffers.upper_bound(address);
    if (at == all().buffers.begin())
        return nullptr;
    const Entry &entry = std::prev(at)->second;
    return address < entry.end ? entry.buffer.lock() : nullptr;
}

std::shared_ptr<BufferImpl> find_next(abi::DevicePtr address) {
    const std::shared_lock<std::shared_mutex> guard(all().lock);
    auto at = all().buffers.upper_bound(address);
    if (at != all().buffers.begin() && address < std::prev(at)->second.end)
        --at;
    std::shared_ptr<BufferImpl> found;
    for (; found == nullptr && at != all().buffers.end(); ++at)
        found = at->second.buffer.lock(); // null: about to be removed
    return found;
}

std::shared_ptr<const Table> table() {
    const std::unique_lock<std::shared_mutex> guard(all().lock);
    if (all().table == nullptr) {
        auto made = std::make_shared<Table>();
        for (const auto &[address, entry] : all().buffers)
            made->push_back(entry);
        all().table = std::move(made);
    }
    return all().table;
}

const Entry *find(const Table &table, abi::DevicePtr address) noexcept {
    const auto above =
        std::upper_bound(table.begin(), table.end(), address,
                         [](abi::DevicePtr at, const Entry &entry) { return at < entry.start; });
    if (above == table.begin())
        return nullptr;
    const Entry &entry = *std::prev(above);
    return address < entry.end ? &entry : nullptr;
}

} // namespace upm::cuda::registry
