// SPDX-License-Identifier: MIT
#include "cuda-cow/core/buffer_impl.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace upm::cuda {

namespace {

constexpr std::size_t kBatchBytes = 256UL << 20; // copied before anything is remapped
constexpr std::size_t kDefaultExtent = 16UL << 20;
std::atomic<std::uint64_t> freeze_count{1};

} // namespace

std::uint64_t freezes() noexcept {
    return freeze_count.load(std::memory_order_acquire);
}

std::size_t run_length(std::span<const std::size_t> indices, std::size_t start) {
    std::size_t end = start + 1;
    while (end < indices.size() && indices[end] == indices[end - 1] + 1)
        ++end;
    return end - start;
}

// In the child of a fork nothing here is the child's: neither the GPU nor the broker.
BufferImpl::~BufferImpl() {
    if (reserved_ == 0 || runtime_->forked())
        return;
    const CurrentContext current(*runtime_);
    std::vector<broker::Lease> leases;
    {
        const Exclusive exclusive(*runtime_); // the memory goes also if there is an error
        unmap_all(leases);
    }
    runtime_->broker->release(leases);
}

void BufferImpl::unmap_all(std::vector<broker::Lease> &leases) {
    const DriverApi &api = runtime_->api;
    std::vector<Piece> mapped;
    for (const Extent &extent : extents_)
        if (extent.handle != 0)
            mapped.push_back({extent.address, extent.bytes});
    std::size_t done = 0;
    (void)runtime_->unmap(mapped, done);
    for (const Extent &extent : extents_) {
        if (extent.handle == 0)
            continue;
        (void)api.mem_release(extent.handle);
        if (extent.lease.connection != 0)
            leases.push_back(extent.lease);
    }
    (void)api.mem_unreserve(address_, reserved_);
}

int BufferImpl::reserve(const std::vector<std::size_t> &sizes) {
    std::size_t total = 0;
    for (const std::size_t size : sizes)
        total += size;
    const int error = runtime_->check(runtime_->api.mem_reserve(&address_, total, 0, 0, 0),
                                      "cuMemAddressReserve");
    if (error != 0)
        return error;
    reserved_ = total;
    abi::DevicePtr at = address_;
    extents_ = std::vector<Extent>(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        extents_[i].address = at;
        extents_[i].bytes = sizes[i];
        at += sizes[i];
    }
    return 0;
}

// Post: on an error the extent is not mapped, and has no handle.
int BufferImpl::map_new(Extent &extent) {
    abi::Handle handle = 0;
    int error = runtime_->create(extent.bytes, handle);
    if (error != 0)
        return error;
    error = runtime_->check(runtime_->api.mem_map(extent.address, extent.bytes, 0, handle, 0),
                            "cuMemMap");
    if (error != 0)
        (void)runtime_->api.mem_release(handle);
    else
        extent.handle = handle;
    return error;
}

int BufferImpl::allocate(std::size_t bytes, std::size_t extent_bytes) {
    if (const int error = check_process(); error != 0)
        return error;
    const std::size_t unit = runtime_->granularity;
    if (extent_bytes == 0)
        extent_bytes = std::max(kDefaultExtent, unit);
    if (bytes == 0 || bytes > SIZE_MAX - unit)
        return fail(EINVAL, "a buffer of %zu bytes", bytes);
    if (extent_bytes % unit != 0)
        return fail(EINVAL, "extents of %zu bytes: not a multiple of the granularity, %zu",
                    extent_bytes, unit);
    const CurrentContext current(*runtime_);
    std::size_t available = 0;
    std::size_t total = 0;
    if (const int error =
            runtime_->check(runtime_->api.mem_info(&available, &total), "cuMemGetInfo");
        error != 0)
        return error;
    if (bytes > total) // before a list of all extents is made
        return fail(ENOMEM, "a buffer of %zu bytes on a device of %zu", bytes, total);
    std::vector<std::size_t> sizes;
    for (std::size_t left = (bytes + unit - 1) / unit * unit; left != 0;) {
        sizes.push_back(std::min(left, extent_bytes));
        left -= sizes.back();
    }
    if (const int error = reserve(sizes); error != 0)
        return error;
    bytes_ = bytes;
    for (Extent &extent : extents_)
        if (const int error = map_new(extent); error != 0)
            return error;
    if (const int error = runtime_->set_access({address_, reserved_}, abi::kAccessReadWrite);
        error != 0)
        return error;
    return clear();
}

// Fresh device memory holds whatever was there. What the program never writes, behind
// the last byte and between its tensors, must be equal everywhere, or it spoils the tag.
int BufferImpl::clear() {
    const int error = runtime_->check(
        runtime_->api.memset_d8_async(address_, 0, reserved_, runtime_->stream), "cuMemsetD8Async");
    const int waited = runtime_->drain("clearing");
    return error != 0 ? error : waited;
}

int BufferImpl::check_range(std::size_t offset, std::size_t length) const {
    if (offset > bytes_ || length > bytes_ - offset)
        return fail(EINVAL, "%s: [%zu, %zu) is not inside its %zu bytes", name_.c_str(), offset,
                    offset + length, bytes_);
    return 0;
}

BufferImpl::Indices BufferImpl::touched(std::size_t offset, std::size_t length) const {
    Indices found;
    const abi::DevicePtr start = address_ + offset;
    for (std::size_t i = 0; length != 0 && i < extents_.size(); ++i)
        if (extents_[i].address < start + length && start < extents_[i].address + extents_[i].bytes)
            found.push_back(i);
    return found;
}

BufferImpl::Indices BufferImpl::inside(std::size_t offset, std::size_t length) const {
    Indices found;
    const abi::DevicePtr start = address_ + offset;
    const abi::DevicePtr end = offset + length == bytes_ ? address_ + reserved_ : start + length;
    for (std::size_t i = 0; i < extents_.size(); ++i)
        if (extents_[i].address >= start && extents_[i].address + extents_[i].bytes <= end)
            found.push_back(i);
    return found;
}

Piece BufferImpl::whole(std::span<const std::size_t> neighbours) const {
    const Extent &first = extents_[neighbours.front()];
    const Extent &last = extents_[neighbours.back()];
    return {first.address, last.address + last.bytes - first.address};
}

// One call for each run of neighbours: the driver takes a range of many mappings. Pre: an
// Exclusive section, also for thaw.
int BufferImpl::freeze(const Indices &indices) {
    ++freeze_count;
    int error = 0;
    for (std::size_t i = 0; i < indices.size() && error == 0;) {
        const std::span run = std::span(indices).subspan(i, run_length(indices, i));
        for (const std::size_t index : run)
            if (!extents_[index].shared())
                extents_[index].state = State::kFrozen;
        error = runtime_->set_access(whole(run), abi::kAccessRead);
        i += run.size();
    }
    return error;
}

// Leaves nothing out because of an error.
int BufferImpl::thaw(const Indices &indices) {
    int error = 0;
    for (std::size_t i = 0; i < indices.size();) {
        const std::span run = std::span(indices).subspan(i, run_length(indices, i));
        const int one = runtime_->set_access(whole(run), abi::kAccessReadWrite);
        for (const std::size_t index : run) {
            extents_[index].state = one != 0 ? State::kFrozen : State::kPrivate;
            extents_[index].in_hand = false;
        }
        error = error != 0 ? error : one;
        i += run.size();
    }
    return error;
}

void BufferImpl::fail_stop(const Extent &extent, const char *what) const {
    (void)std::fprintf(stderr,
                       "upm-cuda: %s: cannot put memory back behind [0x%llx, 0x%llx) (%s: %s); "
                       "ending the process rather than leave a hole\n",
                       name_.c_str(), extent.address, extent.address + extent.bytes, what,
                       last_error());
    std::abort();
}

int BufferImpl::swap(std::span<const std::size_t> neighbours, std::span<const abi::Handle> handles,
                     int access) {
    std::vector<Piece> pieces;
    for (const std::size_t index : neighbours)
        pieces.push_back({extents_[index].address, extents_[index].bytes});
    std::size_t unmapped = 0;
    std::size_t mapped = 0;
    int error = runtime_->unmap(pieces, unmapped);
    while (error == 0 && mapped < pieces.size()) {
        error = runtime_->check(runtime_->api.mem_map(pieces[mapped].address, pieces[mapped].bytes,
                                                      0, handles[mapped], 0),
                                "cuMemMap");
        mapped += error == 0 ? 1 : 0;
    }
    if (error == 0)
        error = runtime_->set_access(whole(neighbours), access);
    if (error == 0 && access == abi::kAccessRead)
        ++freeze_count;
    if (error == 0 || unmapped == 0)
        return error;
    const std::string reason = last_error();
    ++rolled_back_;
    put_back(neighbours.first(unmapped), mapped);
    return fail(error, "%s", reason.c_str());
}

// What was there before goes back, as it was before: writable if it was private. The first
// `mapped` extents have their new memory already.
void BufferImpl::put_back(std::span<const std::size_t> unmapped, std::size_t mapped) {
    const DriverApi &api = runtime_->api;
    for (std::size_t i = 0; i < unmapped.size(); ++i) {
        const Extent &extent = extents_[unmapped[i]];
        if (i < mapped &&
            runtime_->check(api.mem_unmap(extent.address, extent.bytes), "cuMemUnmap") != 0)
            fail_stop(extent, "cuMemUnmap");
        if (runtime_->check(api.mem_map(extent.address, extent.bytes, 0, extent.handle, 0),
                            "cuMemMap") != 0)
            fail_stop(extent, "cuMemMap");
        const bool writable = extent.state == State::kPrivate;
        if (runtime_->set_access({extent.address, extent.bytes},
                                 writable ? abi::kAccessReadWrite : abi::kAccessRead) != 0)
            fail_stop(extent, "cuMemSetAccess");
    }
}

int BufferImpl::will_write(std::size_t offset, std::size_t length, std::uint64_t &copied) {
    copied = 0;
    if (const int error = check_process(); error != 0)
        return error;
    const std::lock_guard<std::mutex> guard(work_);
    if (const int error = check_range(offset, length); error != 0)
        return error;
    Indices shared;
    Indices frozen;
    for (const std::size_t index : touched(offset, length)) {
        const State state = extents_[index].state;
        if (state == State::kShared || state == State::kOffered)
            shared.push_back(index);
        else if (state == State::kFrozen)
            frozen.push_back(index);
        else
            extents_[index].in_hand = false; // an advise leaves it alone from now on
    }
    if (shared.empty() && frozen.empty())
        return 0;
    const CurrentContext current(*runtime_);
    if (const int error = thaw_all(frozen); error != 0)
        return error;
    return copy(shared, State::kPrivate, copied);
}

int BufferImpl::copy(const Indices &shared, State becomes, std::uint64_t &copied) {
    Indices batch;
    std::size_t batch_bytes = 0;
    for (const std::size_t index : shared) {
        const Extent &extent = extents_[index];
        if (!batch.empty() &&
            (batch_bytes + extent.bytes > kBatchBytes || batch.size() == broker::kMaxItems)) {
            if (const int error = copy_batch(batch, becomes, copied); error != 0)
                return error;
            batch.clear();
            batch_bytes = 0;
        }
        batch.push_back(index);
        batch_bytes += extent.bytes;
    }
    return batch.empty() ? 0 : copy_batch(batch, becomes, copied);
}

// Post: what is mapped at `to` holds the bytes of the extents. Others may read these
// meanwhile, and nobody can write them.
int BufferImpl::copy_bytes(const Indices &batch, const std::vector<abi::DevicePtr> &to) {
    int error = 0;
    for (std::size_t i = 0; i < batch.size() && error == 0; ++i) {
        const Extent &extent = extents_[batch[i]];
        error = runtime_->check(
            runtime_->api.memcpy_dtod_async(to[i], extent.address, extent.bytes, runtime_->stream),
            "cuMemcpyDtoDAsync");
    }
    // Also after an error: nothing must be unmapped under a copy.
    const int done = runtime_->drain("copying");
    return error != 0 ? error : done;
}

int BufferImpl::fill_copies(const Indices &batch, const std::vector<abi::Handle> &handles) {
    std::vector<std::size_t> sizes;
    for (const std::size_t index : batch)
        sizes.push_back(extents_[index].bytes);
    Window window(*runtime_);
    int error = window.open(handles, sizes, abi::kAccessReadWrite);
    if (error != 0)
        return error;
    std::vector<abi::DevicePtr> to;
    for (const Piece &piece : window.pieces())
        to.push_back(piece.address);
    error = copy_bytes(batch, to);
    const int closed = window.close();
    return error != 0 ? error : closed;
}

int BufferImpl::copy_batch(const Indices &batch, State becomes, std::uint64_t &copied) {
    const bool smallest = std::all_of(batch.begin(), batch.end(), [this](const std::size_t index) {
        return extents_[index].bytes == runtime_->granularity;
    });
    if (smallest) {
        const std::vector<Spares::Spare> spares = runtime_->spares->take(batch.size());
        if (!spares.empty())
            return copy_to_spares(batch, spares, becomes, copied);
    }
    std::vector<abi::Handle> handles;
    int error = 0;
    for (std::size_t i = 0; i < batch.size() && error == 0; ++i) {
        abi::Handle handle = 0;
        error = runtime_->create(extents_[batch[i]].bytes, handle);
        if (error == 0)
            handles.push_back(handle);
    }
    if (error == 0)
        error = fill_copies(batch, handles);
    std::size_t done = 0;
    if (error == 0)
        error = swap_copies(batch, handles, becomes, done, copied);
    const std::string reason = error != 0 ? last_error() : "";
    for (std::size_t i = done; i < handles.size(); ++i)
        (void)runtime_->api.mem_release(handles[i]);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

int BufferImpl::copy_to_spares(const Indices &batch, const std::vector<Spares::Spare> &spares,
                               State becomes, std::uint64_t &copied) {
    std::vector<abi::Handle> handles;
    std::vector<abi::DevicePtr> to;
    for (const Spares::Spare &spare : spares) {
        handles.push_back(spare.handle);
        to.push_back(spare.at);
    }
    std::size_t done = 0;
    int error = copy_bytes(batch, to);
    if (error == 0)
        error = swap_copies(batch, handles, becomes, done, copied);
    const std::string reason = error != 0 ? last_error() : "";
    for (std::size_t i = 0; i < spares.size(); ++i) {
        if (i < done)
            runtime_->spares->used(spares[i]);
        else
            runtime_->spares->unused(spares[i]);
    }
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

// For extents of the smallest size, which are those for what is written often. Pre: the
// context is current.
void BufferImpl::fill_spares() {
    if (std::any_of(extents_.begin(), extents_.end(), [this](const Extent &extent) {
            return extent.bytes == runtime_->granularity && extent.shared();
        }))
        runtime_->spares->fill();
}

// `done`: how many of the handles are behind their extents now.
int BufferImpl::swap_copies(const Indices &batch, const std::vector<abi::Handle> &handles,
                            State becomes, std::size_t &done, std::uint64_t &copied) {
    const bool write = becomes == State::kPrivate;
    const int access = write ? abi::kAccessReadWrite : abi::kAccessRead;
    std::vector<broker::Lease> leases;
    std::vector<abi::Handle> old;
    int error = 0;
    {
        const Exclusive exclusive(*runtime_);
        error = exclusive.error();
        while (done < batch.size() && error == 0) {
            const std::span run = std::span(batch).subspan(done, run_length(batch, done));
            error = swap(run, std::span(handles).subspan(done, run.size()), access);
            for (std::size_t i = 0; i < run.size() && error == 0; ++i) {
                Extent &extent = extents_[run[i]];
                old.push_back(extent.handle);
                if (extent.lease.connection != 0)
                    leases.push_back(extent.lease);
                extent.handle = handles[done++];
                extent.imported = false;
                extent.state = becomes;
                extent.in_hand = extent.in_hand && !write;
                extent.lease = {};
                copied += extent.bytes;
                copies_ += write ? 1 : 0;
                copied_bytes_ += write ? extent.bytes : 0;
            }
        }
    }
    const std::string reason = error != 0 ? last_error() : "";
    for (const abi::Handle handle : old)
        (void)runtime_->api.mem_release(handle);
    runtime_->broker->release(leases);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

bool BufferImpl::writable(std::size_t offset, std::size_t length) const {
    const abi::DevicePtr start = address_ + offset;
    auto at = std::partition_point(extents_.begin(), extents_.end(), [start](const Extent &extent) {
        return extent.address + extent.bytes <= start;
    });
    for (; length != 0 && at != extents_.end() && at->address < start + length; ++at)
        if (at->state.load(std::memory_order_relaxed) != State::kPrivate)
            return false;
    return true;
}

int BufferImpl::manifest(Manifest &manifest) {
    const std::lock_guard<std::mutex> guard(work_);
    manifest = {.bytes = bytes_, .extents = {}};
    for (const Extent &extent : extents_) {
        if (!extent.shared())
            return fail(EAGAIN, "%s: not every extent is shared", name_.c_str());
        manifest.extents.push_back({.bytes = extent.bytes, .tag = extent.tag});
    }
    return 0;
}

BufferStats BufferImpl::stats() const {
    BufferStats now{.extents = extents_.size(),
                    .copies = copies_,
                    .copied_bytes = copied_bytes_,
                    .rolled_back = rolled_back_};
    for (const Extent &extent : extents_) {
        const bool shared = extent.shared();
        now.shared += shared ? 1 : 0;
        (shared ? now.shared_bytes : now.private_bytes) += extent.bytes;
    }
    return now;
}

std::string BufferImpl::describe(std::size_t offset) const {
    const Indices at = touched(offset, 1);
    const State state = at.empty() ? State::kPrivate : extents_[at.front()].state.load();
    const char *is = "private";
    if (state == State::kShared)
        is = "shared, read-only";
    else if (state == State::kOffered)
        is = "read-only, on its way to the broker";
    else if (state == State::kFrozen)
        is = "private, read-only during an advise or since one that failed";
    char text[96];
    (void)std::snprintf(text, sizeof text, "+0x%zx (%s)", offset, is);
    return name_ + text;
}

} // namespace upm::cuda
