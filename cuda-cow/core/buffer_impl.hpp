// SPDX-License-Identifier: MIT
//
// A buffer: addresses that stay, and the physical memory behind each extent.
//
// Every extent is in one of four states. Private: mapped read-write, nobody else has its
// memory. Shared: mapped read-only; others may map the same memory, or may once have been
// given it. Memory that others may have seen never becomes writable again: will_write copies
// it. Frozen: private, and yet read-only, from when advise is about to offer or to compare
// it; it stays so only if thawing it failed. Offered: on its way to the broker, and so for
// will_write as if it were shared; frozen again if the broker did not take it. What is
// mapped where, and with which access, is changed only in an Exclusive section (gate.hpp).
//
// advise hashes extents while they are writable, and asks the broker before it freezes them.
// So a tag is a guess until it is known that nothing was written since: what is new is frozen
// and hashed again before it is offered, and what is known is frozen and compared in the
// Exclusive section that replaces it. Frozen also there: the section keeps out only launches
// that the hook sees, and a store of another one must be an error rather than be lost.
//
// Lock order: advising, negotiation, (broker | work, Exclusive, (registry | hasher)). Nothing
// that a write or a launch waits for is held while the broker is asked: a broker that stands
// still holds advise and attach up, and nobody else. So a write may come between any two
// steps of an advise. It wins: `in_hand` says which extents the advise may go on with.
#ifndef UPM_CUDA_CORE_BUFFER_IMPL_HPP
#define UPM_CUDA_CORE_BUFFER_IMPL_HPP

#include "cuda-cow/core/gate.hpp"
#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/core/spares.hpp"

#include <atomic>
#include <mutex>
#include <span>

namespace upm::cuda {

enum class State : std::uint8_t { kPrivate, kFrozen, kOffered, kShared };

struct Extent {
    abi::DevicePtr address = 0;
    std::size_t bytes = 0;
    abi::Handle handle = 0;
    std::atomic<State> state{State::kPrivate}; // launches look at it, with the gate shared
    broker::Lease lease;                       // connection 0: none
    Tag tag;                                   // of the shared content
    bool in_hand = false;  // of an advise that is under way; not written since it began
    bool imported = false; // the memory is another process's, or came by its descriptor
    [[nodiscard]] bool shared() const noexcept { return state == State::kShared; }
};

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

    // True if every extent of the range is mapped writable. Pre: the gate is held.
    [[nodiscard]] bool writable(std::size_t offset, std::size_t length) const;
    // Tags of the extents that the range touches, after waiting for the device. Pre: the
    // gate is held.
    int hash(std::size_t offset, std::size_t length, std::vector<Tag> &tags);

    int manifest(Manifest &manifest);
    [[nodiscard]] BufferStats stats() const;
    [[nodiscard]] std::string describe(std::size_t offset) const;

    [[nodiscard]] abi::DevicePtr address() const noexcept { return address_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::size_t mapped_bytes() const noexcept { return reserved_; }
    [[nodiscard]] abi::Device device() const noexcept { return runtime_->device; }
    // ENODEV in the child of a fork.
    [[nodiscard]] int check_process() const { return runtime_->check_process(); }

  private:
    using Indices = std::vector<std::size_t>;

    // buffer_impl.cpp
    int reserve(const std::vector<std::size_t> &sizes);
    int map_new(Extent &extent);
    void unmap_all(std::vector<broker::Lease> &leases);
    int clear();
    [[nodiscard]] Indices touched(std::size_t offset, std::size_t length) const;
    [[nodiscard]] Indices inside(std::size_t offset, std::size_t length) const;
    [[nodiscard]] int check_range(std::size_t offset, std::size_t length) const;
    int freeze(const Indices &indices);
    int thaw(const Indices &indices);
    [[nodiscard]] Piece whole(std::span<const std::size_t> neighbours) const;
    // Puts other memory behind neighbours, or leaves all of them as they were. Pre: an
    // Exclusive section.
    int swap(std::span<const std::size_t> neighbours, std::span<const abi::Handle> handles,
             int access);
    void put_back(std::span<const std::size_t> unmapped, std::size_t mapped);
    [[noreturn]] void fail_stop(const Extent &extent, const char *what) const;
    // Gives the extents memory of their own with the same bytes. `becomes`: kPrivate, or
    // kFrozen for what is to be offered.
    int copy(const Indices &shared, State becomes, std::uint64_t &copied);
    int copy_batch(const Indices &batch, State becomes, std::uint64_t &copied);
    int copy_to_spares(const Indices &batch, const std::vector<Spares::Spare> &spares,
                       State becomes, std::uint64_t &copied);
    int fill_copies(const Indices &batch, const std::vector<abi::Handle> &handles);
    int copy_bytes(const Indices &batch, const std::vector<abi::DevicePtr> &to);
    int swap_copies(const Indices &batch, const std::vector<abi::Handle> &handles, State becomes,
                    std::size_t &done, std::uint64_t &copied);
    void fill_spares();

    // advise.cpp
    int freeze_all(const Indices &indices);
    int thaw_all(const Indices &indices);
    int begin_advise(const Indices &range, Indices &todo, AdviseCounts &counts);
    int end_advise(const Indices &range, const Indices &todo, AdviseCounts &counts);
    int advise_batch(Indices batch, AdviseCounts &counts);
    int hash_batch(Indices &batch, std::vector<Tag> &tags, AdviseCounts &counts);
    int settle(const Indices &batch, const std::vector<Tag> &tags,
               std::vector<broker::Found> &found, AdviseCounts &counts);
    [[nodiscard]] std::vector<Piece> pieces_of(const Indices &indices) const;
    void free_old(std::size_t most = SIZE_MAX);
    int freeze_new(const Indices &batch, const std::vector<broker::Found> &found);
    int make_exportable(const Indices &batch, const std::vector<broker::Found> &found);
    struct Publication;
    struct Candidates;
    int export_reserved(const Indices &batch, std::vector<broker::Found> &found, Publication &made,
                        AdviseCounts &counts);
    int look_at(const Candidates &candidates, std::size_t first, std::size_t count,
                std::vector<bool> &different);
    int publish(const Indices &batch, std::vector<broker::Found> &found, AdviseCounts &counts);
    void settle_offer(const Publication &made, bool taken, bool answered);
    int merge(const Indices &batch, std::vector<broker::Found> &found, AdviseCounts &counts);
    int import(const Indices &batch, std::vector<broker::Found> &found, Candidates &candidates,
               AdviseCounts &counts);
    int replace(Candidates &candidates, AdviseCounts &counts);
    int compare(Candidates &candidates, AdviseCounts &counts);
    int remap(Candidates &candidates, AdviseCounts &counts);
    int wait_for_busy(const Indices &batch, const std::vector<Tag> &tags,
                      std::vector<broker::Found> &found, AdviseCounts &counts);
    int take_shared(const Manifest &manifest);

    const std::shared_ptr<RuntimeImpl> runtime_;
    const std::string name_;
    std::mutex advising_; // one advise at a time; held while the broker is asked
    std::mutex work_;     // of the extents; never held while the broker is asked
    abi::DevicePtr address_ = 0;
    std::size_t bytes_ = 0;
    std::size_t reserved_ = 0;
    std::vector<Extent> extents_;
    kernels::Keys keys_ = {};      // of the advise that is under way
    std::vector<abi::Handle> old_; // what it has replaced, and not yet freed
    std::atomic<std::uint64_t> copies_{0};
    std::atomic<std::uint64_t> copied_bytes_{0};
    std::atomic<std::uint64_t> rolled_back_{0};
};

// Counts up whenever extents stop being writable. Pre, to rely on it: a gate is held.
std::uint64_t freezes() noexcept;

// The length of the run of neighbours that begins at indices[start].
std::size_t run_length(std::span<const std::size_t> indices, std::size_t start);

} // namespace upm::cuda

#endif // UPM_CUDA_CORE_BUFFER_IMPL_HPP
