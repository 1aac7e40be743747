// SPDX-License-Identifier: MIT
//
// A buffer: addresses that stay, and the physical memory behind each extent.
//
// Every extent is in one of two states. kPrivate: mapped read-write, nobody else has
// its memory. kShared: mapped read-only; others may map the same memory, or may once
// have been given it. Memory that others may have seen never becomes writable again:
// will_write copies it. Between the two an extent is changed only while the launch
// gate is held exclusively and after the device was waited for.
//
// Lock order: gate, buffer, (registry | broker | hasher).
#ifndef UPM_CUDA_CORE_BUFFER_IMPL_HPP
#define UPM_CUDA_CORE_BUFFER_IMPL_HPP

#include "cuda-cow/core/runtime.hpp"

#include <mutex>
#include <shared_mutex>

namespace upm::cuda {

struct Extent {
    abi::DevicePtr address = 0;
    std::size_t bytes = 0;
    abi::Handle handle = 0;
    bool shared = false;
    broker::Lease lease; // connection 0: none
    Tag tag;             // of the shared content
};

// Held shared while work that uses tracked memory is put on a stream, exclusively
// while mappings change.
std::shared_mutex &launch_gate();

class BufferImpl {
  public:
    BufferImpl(std::shared_ptr<RuntimeImpl> runtime, std::string name)
        : runtime_(std::move(runtime)), name_(std::move(name)) {}
    BufferImpl(const BufferImpl &) = delete;
    BufferImpl &operator=(const BufferImpl &) = delete;
    ~BufferImpl();

    int allocate(std::size_t bytes, std::size_t extent_bytes);
    int attach(const Manifest &manifest);
    int advise(std::size_t offset, std::size_t length, AdviseCounts &counts);
    int will_write(std::size_t offset, std::size_t length, std::uint64_t &copied);

    // Whether no extent of the range is shared. Pre: the gate is held.
    bool writable(std::size_t offset, std::size_t length);
    // Tags of the extents that the range touches, after waiting for the device.
    int hash(std::size_t offset, std::size_t length, std::vector<Tag> &tags);

    int manifest(Manifest &manifest);
    BufferStats stats();
    std::string describe(std::size_t offset);

    [[nodiscard]] abi::DevicePtr address() const noexcept { return address_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::size_t mapped_bytes() const noexcept { return reserved_; }

  private:
    using Indices = std::vector<std::size_t>;

    // buffer_impl.cpp
    int reserve(const std::vector<std::size_t> &sizes);
    int map_new(Extent &extent);
    int clear_tail();
    [[nodiscard]] Indices touched(std::size_t offset, std::size_t length) const;
    [[nodiscard]] Indices inside(std::size_t offset, std::size_t length) const;
    [[nodiscard]] int check_range(std::size_t offset, std::size_t length) const;
    int set_access(const Indices &indices, int access);
    // Puts other memory behind an extent, or leaves it as it was. Pre: gate held,
    // the device is idle.
    int swap(Extent &extent, abi::Handle handle, int access);
    [[noreturn]] void fail_stop(const Extent &extent, const char *what) const;
    int copy_batch(const Indices &batch, bool &waited, std::uint64_t &copied);
    int fill_copies(const Indices &batch, const std::vector<abi::Handle> &handles);

    // advise.cpp
    int advise_batch(const Indices &batch, AdviseCounts &counts);
    int hash_batch(const Indices &batch, std::vector<Tag> &tags);
    int settle(const Indices &batch, const std::vector<Tag> &tags,
               std::vector<broker::Found> &found, AdviseCounts &counts);
    int publish(const Indices &batch, const std::vector<broker::Found> &found,
                AdviseCounts &counts);
    int merge(const Indices &batch, std::vector<broker::Found> &found, AdviseCounts &counts);
    int wait_for_busy(const Indices &batch, const std::vector<Tag> &tags,
                      std::vector<broker::Found> &found, AdviseCounts &counts);
    int take_shared(const Manifest &manifest);

    const std::shared_ptr<RuntimeImpl> runtime_;
    const std::string name_;
    std::mutex lock_; // of all below but address and sizes, which are set once
    abi::DevicePtr address_ = 0;
    std::size_t bytes_ = 0;
    std::size_t reserved_ = 0;
    std::vector<Extent> extents_;
    std::uint64_t copies_ = 0;
    std::uint64_t copied_bytes_ = 0;
    std::uint64_t rolled_back_ = 0;
};

} // namespace upm::cuda

#endif // UPM_CUDA_CORE_BUFFER_IMPL_HPP
