// SPDX-License-Identifier: MIT
//
// A buffer: addresses that stay, and the physical memory behind each extent.
//
// Every extent is in one of two states. Private: mapped read-write, nobody else has
// its memory. Shared: mapped read-only; others may map the same memory, or may once
// have been given it. Memory that others may have seen never becomes writable again:
// will_write copies it. Between the two an extent is changed only while the launch
// gate is held exclusively and after the device was waited for. A private extent is
// `frozen` while advise looks at it, and stays so only if thawing it failed.
//
// Lock order: gate, buffer, (registry | broker | hasher).
#ifndef UPM_CUDA_CORE_BUFFER_IMPL_HPP
#define UPM_CUDA_CORE_BUFFER_IMPL_HPP

#include "cuda-cow/core/runtime.hpp"

#include <mutex>
#include <pthread.h>
#include <span>

namespace upm::cuda {

struct Extent {
    abi::DevicePtr address = 0;
    std::size_t bytes = 0;
    abi::Handle handle = 0;
    bool shared = false;
    bool frozen = false; // private, and yet read-only
    broker::Lease lease; // connection 0: none
    Tag tag;             // of the shared content
};

// Held shared while work that uses tracked memory is put on a stream, exclusively
// while mappings change. Who waits for it exclusively goes before later sharers:
// otherwise a few threads that launch all the time keep will_write out for good. So
// no thread may take it twice.
class Gate {
  public:
    Gate() noexcept;
    Gate(const Gate &) = delete;
    Gate &operator=(const Gate &) = delete;
    void lock() noexcept { (void)::pthread_rwlock_wrlock(&lock_); }
    void unlock() noexcept { (void)::pthread_rwlock_unlock(&lock_); }
    void lock_shared() noexcept { (void)::pthread_rwlock_rdlock(&lock_); }
    void unlock_shared() noexcept { (void)::pthread_rwlock_unlock(&lock_); }

  private:
    ~Gate() = default; // never: see launch_gate()
    friend Gate &launch_gate();
    pthread_rwlock_t lock_;
};
Gate &launch_gate();

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

    // Whether every extent of the range is mapped writable. Pre: the gate is held.
    bool writable(std::size_t offset, std::size_t length);
    // Tags of the extents that the range touches, after waiting for the device.
    int hash(std::size_t offset, std::size_t length, std::vector<Tag> &tags);

    int manifest(Manifest &manifest);
    BufferStats stats();
    std::string describe(std::size_t offset);

    [[nodiscard]] abi::DevicePtr address() const noexcept { return address_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::size_t mapped_bytes() const noexcept { return reserved_; }
    // ENODEV in the child of a fork.
    [[nodiscard]] int check_process() const { return runtime_->check_process(); }

  private:
    using Indices = std::vector<std::size_t>;

    // buffer_impl.cpp
    int reserve(const std::vector<std::size_t> &sizes);
    int map_new(Extent &extent);
    int clear_tail();
    [[nodiscard]] Indices touched(std::size_t offset, std::size_t length) const;
    [[nodiscard]] Indices inside(std::size_t offset, std::size_t length) const;
    [[nodiscard]] int check_range(std::size_t offset, std::size_t length) const;
    int freeze(const Indices &indices);
    int thaw(const Indices &indices);
    [[nodiscard]] Piece whole(std::span<const std::size_t> neighbours) const;
    // Puts other memory behind neighbours, or leaves all of them as they were. Pre:
    // gate held, the device is idle.
    int swap(std::span<const std::size_t> neighbours, std::span<const abi::Handle> handles,
             int access);
    void put_back(std::span<const std::size_t> unmapped, std::size_t mapped);
    [[noreturn]] void fail_stop(const Extent &extent, const char *what) const;
    int copy(const Indices &shared, std::uint64_t &copied);
    int copy_batch(const Indices &batch, bool &waited, std::uint64_t &copied);
    int fill_copies(const Indices &batch, const std::vector<abi::Handle> &handles, bool &waited);

    // advise.cpp
    int advise_batch(const Indices &batch, AdviseCounts &counts);
    int hash_batch(const Indices &batch, std::vector<Tag> &tags);
    int settle(const Indices &batch, const std::vector<Tag> &tags,
               std::vector<broker::Found> &found, AdviseCounts &counts);
    struct Publication;
    int export_reserved(const Indices &batch, const std::vector<broker::Found> &found,
                        Publication &made, AdviseCounts &counts);
    int publish(const Indices &batch, const std::vector<broker::Found> &found,
                AdviseCounts &counts);
    int merge(const Indices &batch, std::vector<broker::Found> &found, AdviseCounts &counts);
    struct Candidates;
    int import(const Indices &batch, std::vector<broker::Found> &found, Candidates &candidates,
               AdviseCounts &counts);
    int compare(Candidates &candidates, AdviseCounts &counts);
    int remap(Candidates &candidates, AdviseCounts &counts);
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

// The length of the run of neighbours that begins at indices[start].
std::size_t run_length(std::span<const std::size_t> indices, std::size_t start);

} // namespace upm::cuda

#endif // UPM_CUDA_CORE_BUFFER_IMPL_HPP
