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

} // namespace

std::shared_mutex &launch_gate() {
    static auto *const gate = new std::shared_mutex; // NOLINT(cppcoreguidelines-owning-memory)
    return *gate;
}

BufferImpl::~BufferImpl() {
    if (reserved_ == 0)
        return;
    const std::unique_lock<std::shared_mutex> gate(launch_gate());
    const CurrentContext current(*runtime_);
    const DriverApi &api = runtime_->api;
    (void)api.ctx_synchronize();
    std::vector<broker::Lease> leases;
    for (const Extent &extent : extents_) {
        if (extent.handle == 0)
            continue;
        (void)api.mem_unmap(extent.address, extent.bytes);
        (void)api.mem_release(extent.handle);
        if (extent.lease.connection != 0)
            leases.push_back(extent.lease);
    }
    (void)api.mem_unreserve(address_, reserved_);
    runtime_->broker->release(leases);
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
    for (const std::size_t size : sizes) {
        extents_.push_back({.address = at, .bytes = size, .lease = {}, .tag = {}});
        at += size;
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
    const std::size_t unit = runtime_->granularity;
    if (extent_bytes == 0)
        extent_bytes = std::max(kDefaultExtent, unit);
    if (bytes == 0 || bytes > SIZE_MAX - unit)
        return fail(EINVAL, "a buffer of %zu bytes", bytes);
    if (extent_bytes % unit != 0)
        return fail(EINVAL, "extents of %zu bytes: not a multiple of the granularity, %zu",
                    extent_bytes, unit);
    const CurrentContext current(*runtime_);
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
    return clear_tail();
}

// What lies behind the last byte must be equal everywhere, or it spoils the tag.
int BufferImpl::clear_tail() {
    if (bytes_ == reserved_)
        return 0;
    const int error = runtime_->check(
        runtime_->api.memset_d8_async(address_ + bytes_, 0, reserved_ - bytes_, runtime_->stream),
        "cuMemsetD8Async");
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

// One call for each run of neighbours: the driver takes a range of many mappings.
int BufferImpl::set_access(const Indices &indices, int access) {
    int error = 0;
    for (std::size_t i = 0; i < indices.size();) {
        Piece run{extents_[indices[i]].address, extents_[indices[i]].bytes};
        for (++i; i < indices.size() && indices[i] == indices[i - 1] + 1; ++i)
            run.bytes += extents_[indices[i]].bytes;
        const int one = runtime_->set_access(run, access);
        error = error != 0 ? error : one;
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

int BufferImpl::swap(Extent &extent, abi::Handle handle, int access) {
    const DriverApi &api = runtime_->api;
    int error = runtime_->check(api.mem_unmap(extent.address, extent.bytes), "cuMemUnmap");
    if (error != 0)
        return error;
    error = runtime_->check(api.mem_map(extent.address, extent.bytes, 0, handle, 0), "cuMemMap");
    const bool mapped = error == 0;
    if (error == 0)
        error = runtime_->set_access({extent.address, extent.bytes}, access);
    if (error == 0)
        return 0;
    // What was there before goes back, as it was before: read-only.
    ++rolled_back_;
    const std::string reason = last_error();
    if (mapped && api.mem_unmap(extent.address, extent.bytes) != abi::kSuccess)
        fail_stop(extent, "cuMemUnmap");
    if (runtime_->check(api.mem_map(extent.address, extent.bytes, 0, extent.handle, 0),
                        "cuMemMap") != 0)
        fail_stop(extent, "cuMemMap");
    if (runtime_->set_access({extent.address, extent.bytes}, abi::kAccessRead) != 0)
        fail_stop(extent, "cuMemSetAccess");
    return fail(error, "%s", reason.c_str());
}

int BufferImpl::will_write(std::size_t offset, std::size_t length, std::uint64_t &copied) {
    copied = 0;
    const std::unique_lock<std::shared_mutex> gate(launch_gate());
    const std::lock_guard<std::mutex> guard(lock_);
    if (const int error = check_range(offset, length); error != 0)
        return error;
    const CurrentContext current(*runtime_);
    bool waited = false;
    Indices batch;
    std::size_t batch_bytes = 0;
    for (const std::size_t index : touched(offset, length)) {
        const Extent &extent = extents_[index];
        if (!extent.shared)
            continue;
        if (!batch.empty() &&
            (batch_bytes + extent.bytes > kBatchBytes || batch.size() == broker::kMaxItems)) {
            if (const int error = copy_batch(batch, waited, copied); error != 0)
                return error;
            batch.clear();
            batch_bytes = 0;
        }
        batch.push_back(index);
        batch_bytes += extent.bytes;
    }
    return batch.empty() ? 0 : copy_batch(batch, waited, copied);
}

// Post: the handles hold the bytes of the extents.
int BufferImpl::fill_copies(const Indices &batch, const std::vector<abi::Handle> &handles) {
    std::vector<std::size_t> sizes;
    for (const std::size_t index : batch)
        sizes.push_back(extents_[index].bytes);
    Window window(*runtime_);
    int error = window.open(handles, sizes, abi::kAccessReadWrite);
    if (error != 0)
        return error;
    for (std::size_t i = 0; i < batch.size() && error == 0; ++i)
        error = runtime_->check(runtime_->api.memcpy_dtod_async(window.pieces()[i].address,
                                                                extents_[batch[i]].address,
                                                                sizes[i], runtime_->stream),
                                "cuMemcpyDtoDAsync");
    // Also after an error: the window must not be closed under a copy.
    const int waited = runtime_->drain("copying");
    const int closed = window.close();
    if (error != 0)
        return error;
    return waited != 0 ? waited : closed;
}

int BufferImpl::copy_batch(const Indices &batch, bool &waited, std::uint64_t &copied) {
    const DriverApi &api = runtime_->api;
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
    // Readers of the old memory must be done before it goes away.
    if (error == 0 && !waited)
        error = runtime_->check(api.ctx_synchronize(), "waiting for the device");
    waited = true;
    std::vector<broker::Lease> leases;
    std::size_t done = 0;
    for (; done < batch.size() && error == 0; ++done) {
        Extent &extent = extents_[batch[done]];
        error = swap(extent, handles[done], abi::kAccessReadWrite);
        if (error != 0)
            break;
        (void)api.mem_release(extent.handle);
        if (extent.lease.connection != 0)
            leases.push_back(extent.lease);
        extent.handle = handles[done];
        extent.shared = false;
        extent.lease = {};
        ++copies_;
        copied_bytes_ += extent.bytes;
        copied += extent.bytes;
    }
    const std::string reason = error != 0 ? last_error() : "";
    for (std::size_t i = done; i < handles.size(); ++i)
        (void)api.mem_release(handles[i]);
    runtime_->broker->release(leases);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

bool BufferImpl::writable(std::size_t offset, std::size_t length) {
    const std::lock_guard<std::mutex> guard(lock_);
    const Indices range = touched(offset, length);
    return std::none_of(range.begin(), range.end(),
                        [&](std::size_t index) { return extents_[index].shared; });
}

int BufferImpl::manifest(Manifest &manifest) {
    const std::lock_guard<std::mutex> guard(lock_);
    manifest = {.bytes = bytes_, .extents = {}};
    for (const Extent &extent : extents_) {
        if (!extent.shared)
            return fail(EAGAIN, "%s: not every extent is shared", name_.c_str());
        manifest.extents.push_back({.bytes = extent.bytes, .tag = extent.tag});
    }
    return 0;
}

BufferStats BufferImpl::stats() {
    const std::lock_guard<std::mutex> guard(lock_);
    BufferStats now{.extents = extents_.size(),
                    .copies = copies_,
                    .copied_bytes = copied_bytes_,
                    .rolled_back = rolled_back_};
    for (const Extent &extent : extents_) {
        now.shared += extent.shared ? 1 : 0;
        (extent.shared ? now.shared_bytes : now.private_bytes) += extent.bytes;
    }
    return now;
}

std::string BufferImpl::describe(std::size_t offset) {
    const std::lock_guard<std::mutex> guard(lock_);
    const Indices at = touched(offset, 1);
    const bool shared = !at.empty() && extents_[at.front()].shared;
    char text[64];
    (void)std::snprintf(text, sizeof text, "+0x%zx (%s)", offset,
                        shared ? "shared, read-only" : "private");
    return name_ + text;
}

} // namespace upm::cuda
