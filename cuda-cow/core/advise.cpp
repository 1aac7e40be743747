// SPDX-License-Identifier: MIT
//
// Sharing: freeze, hash, ask the broker, compare, remap; and attaching.
#include "cuda-cow/core/buffer_impl.hpp"
#include "cuda-cow/kernels/reference.hpp"

#include <algorithm>
#include <cerrno>
#include <unistd.h>

namespace upm::cuda {

namespace {

broker::Content content_of(std::size_t bytes, const Tag &tag) {
    return {.bytes = bytes, .tag_low = tag.low, .tag_high = tag.high};
}

} // namespace

int BufferImpl::advise(std::size_t offset, std::size_t length, AdviseCounts &counts) {
    const std::unique_lock<std::shared_mutex> gate(launch_gate());
    const std::lock_guard<std::mutex> guard(lock_);
    if (length == SIZE_MAX && offset <= bytes_)
        length = bytes_ - offset;
    if (const int error = check_range(offset, length); error != 0)
        return error;
    const CurrentContext current(*runtime_);
    Indices todo;
    for (const std::size_t index : inside(offset, length)) {
        ++counts.extents;
        if (extents_[index].shared) {
            ++counts.already;
            counts.bytes += extents_[index].bytes;
        } else {
            todo.push_back(index);
        }
    }
    if (todo.empty())
        return 0;
    // Whatever still writes, of any stream, ends before the memory is frozen.
    if (const int error =
            runtime_->check(runtime_->api.ctx_synchronize(), "waiting for the device");
        error != 0)
        return error;
    for (std::size_t start = 0; start < todo.size(); start += broker::kMaxItems) {
        const std::size_t end = std::min(todo.size(), start + broker::kMaxItems);
        const Indices batch(todo.begin() + static_cast<std::ptrdiff_t>(start),
                            todo.begin() + static_cast<std::ptrdiff_t>(end));
        if (const int error = advise_batch(batch, counts); error != 0)
            return error;
    }
    return 0;
}

int BufferImpl::hash_batch(const Indices &batch, std::vector<Tag> &tags) {
    broker::Welcome welcome;
    if (const int error = runtime_->broker->welcome(welcome); error != 0)
        return error;
    std::vector<Piece> pieces;
    for (const std::size_t index : batch)
        pieces.push_back({extents_[index].address, extents_[index].bytes});
    return runtime_->hasher->tag(pieces, make_keys(welcome.seed_low, welcome.seed_high), tags);
}

int BufferImpl::advise_batch(const Indices &batch, AdviseCounts &counts) {
    std::vector<Tag> tags;
    std::vector<broker::Found> found;
    int error = set_access(batch, abi::kAccessRead);
    if (error == 0)
        error = hash_batch(batch, tags);
    if (error == 0) {
        std::vector<broker::Content> contents;
        for (std::size_t i = 0; i < batch.size(); ++i)
            contents.push_back(content_of(extents_[batch[i]].bytes, tags[i]));
        error = runtime_->broker->find(contents, found);
    }
    if (error == 0)
        error = settle(batch, tags, found, counts);
    const std::string reason = error != 0 ? last_error() : "";
    Indices rest;
    for (const std::size_t index : batch)
        if (!extents_[index].shared)
            rest.push_back(index);
    const int thawed = set_access(rest, abi::kAccessReadWrite);
    return error != 0 ? fail(error, "%s", reason.c_str()) : thawed;
}

int BufferImpl::settle(const Indices &batch, const std::vector<Tag> &tags,
                       std::vector<broker::Found> &found, AdviseCounts &counts) {
    for (std::size_t i = 0; i < batch.size(); ++i) {
        extents_[batch[i]].tag = tags[i];
        if (found[i].state == broker::State::kRefused)
            ++counts.refused;
    }
    // First what others wait for, then what this process may have to wait for.
    const int published = publish(batch, found, counts);
    const int merged = merge(batch, found, counts);
    if (published != 0 || merged != 0)
        return published != 0 ? published : merged;
    return wait_for_busy(batch, tags, found, counts);
}

int BufferImpl::publish(const Indices &batch, const std::vector<broker::Found> &found,
                        AdviseCounts &counts) {
    std::vector<broker::Lease> reservations;
    std::vector<int> fds;
    Indices published;
    int error = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        if (found[i].state != broker::State::kReserved)
            continue;
        reservations.push_back(found[i].lease);
        published.push_back(batch[i]);
        int fd = -1;
        if (error == 0)
            error = runtime_->check(
                runtime_->api.mem_export(&fd, extents_[batch[i]].handle, abi::kHandlePosixFd, 0),
                "cuMemExportToShareableHandle");
        if (error == 0)
            fds.push_back(fd);
    }
    if (published.empty())
        return 0;
    bool taken = false;
    if (error == 0)
        error = runtime_->broker->publish(reservations, fds, taken);
    else
        (void)runtime_->broker->abandon(reservations);
    for (const int fd : fds)
        ::close(fd);
    for (std::size_t i = 0; taken && i < published.size(); ++i) {
        // Without an answer others may map it all the same: it stays read-only.
        Extent &extent = extents_[published[i]];
        extent.shared = true;
        extent.lease = error == 0 ? reservations[i] : broker::Lease{};
        ++counts.published;
        counts.bytes += extent.bytes;
    }
    if (!taken && (error == ENOSPC || error == EMFILE)) {
        counts.refused += published.size();
        error = 0;
    }
    return error;
}

int BufferImpl::merge(const Indices &batch, std::vector<broker::Found> &found,
                      AdviseCounts &counts) {
    std::vector<abi::Handle> handles;
    std::vector<std::size_t> sizes;
    std::vector<abi::DevicePtr> own;
    std::vector<broker::Lease> leases;
    std::vector<broker::Lease> unwanted;
    Indices merging;
    int error = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        broker::Found &one = found[i];
        if (one.state != broker::State::kShared)
            continue;
        abi::Handle handle = 0;
        if (error == 0 && one.fd >= 0)
            error = runtime_->check(
                runtime_->api.mem_import(&handle, reinterpret_cast<void *>(std::intptr_t{one.fd}),
                                         abi::kHandlePosixFd),
                "cuMemImportFromShareableHandle");
        if (one.fd >= 0)
            ::close(one.fd);
        if (handle == 0) {
            counts.refused += error == 0 ? 1 : 0;
            unwanted.push_back(one.lease);
            continue;
        }
        const Extent &extent = extents_[batch[i]];
        handles.push_back(handle);
        sizes.push_back(extent.bytes);
        own.push_back(extent.address);
        leases.push_back(one.lease);
        merging.push_back(batch[i]);
    }
    std::vector<bool> different(merging.size(), true);
    if (error == 0 && !merging.empty()) {
        Window window(*runtime_);
        error = window.open(handles, sizes, abi::kAccessRead);
        if (error == 0)
            error = runtime_->hasher->compare(window.pieces(), own, different);
        const int closed = window.close();
        error = error != 0 ? error : closed;
    }
    for (std::size_t i = 0; i < merging.size(); ++i) {
        Extent &extent = extents_[merging[i]];
        const abi::Handle before = extent.handle;
        if (error == 0 && different[i])
            ++counts.different;
        else if (error == 0)
            error = swap(extent, handles[i], abi::kAccessRead);
        if (error != 0 || different[i]) {
            (void)runtime_->api.mem_release(handles[i]);
            unwanted.push_back(leases[i]);
            continue;
        }
        (void)runtime_->api.mem_release(before);
        extent.handle = handles[i];
        extent.shared = true;
        extent.lease = leases[i];
        ++counts.merged;
        counts.bytes += extent.bytes;
    }
    const std::string reason = error != 0 ? last_error() : "";
    runtime_->broker->release(unwanted);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

// One after the other, since who waits may hold no reservation.
int BufferImpl::wait_for_busy(const Indices &batch, const std::vector<Tag> &tags,
                              std::vector<broker::Found> &found, AdviseCounts &counts) {
    for (std::size_t i = 0; i < batch.size(); ++i) {
        if (found[i].state != broker::State::kBusy)
            continue;
        std::vector<broker::Found> one(1);
        int error = runtime_->broker->find_or_wait(content_of(extents_[batch[i]].bytes, tags[i]),
                                                   one.front());
        if (error == 0 && one.front().state == broker::State::kRefused)
            ++counts.refused;
        if (error == 0)
            error = publish({batch[i]}, one, counts);
        if (error == 0)
            error = merge({batch[i]}, one, counts);
        if (error != 0)
            return error;
    }
    return 0;
}

int BufferImpl::hash(std::size_t offset, std::size_t length, std::vector<Tag> &tags) {
    const std::lock_guard<std::mutex> guard(lock_);
    const CurrentContext current(*runtime_);
    tags.clear();
    const Indices range = touched(offset, length);
    int error = runtime_->check(runtime_->api.ctx_synchronize(), "waiting for the device");
    const kernels::Keys keys = make_keys(1, 2); // compared with each other only
    for (std::size_t start = 0; start < range.size() && error == 0; start += broker::kMaxItems) {
        std::vector<Piece> pieces;
        for (std::size_t i = start; i < std::min(range.size(), start + broker::kMaxItems); ++i)
            pieces.push_back({extents_[range[i]].address, extents_[range[i]].bytes});
        std::vector<Tag> some;
        error = runtime_->hasher->tag(pieces, keys, some);
        tags.insert(tags.end(), some.begin(), some.end());
    }
    return error;
}

int BufferImpl::attach(const Manifest &manifest) {
    const CurrentContext current(*runtime_);
    std::vector<std::size_t> sizes;
    std::size_t total = 0;
    for (const Manifest::Extent &extent : manifest.extents) {
        if (extent.bytes == 0 || extent.bytes % runtime_->granularity != 0 ||
            extent.bytes > SIZE_MAX - total)
            return fail(EINVAL, "manifest: an extent of %llu bytes, with a granularity of %zu",
                        static_cast<unsigned long long>(extent.bytes), runtime_->granularity);
        sizes.push_back(extent.bytes);
        total += extent.bytes;
    }
    if (manifest.bytes == 0 || manifest.bytes > total)
        return fail(EINVAL, "manifest: %llu bytes in extents of %zu",
                    static_cast<unsigned long long>(manifest.bytes), total);
    if (const int error = reserve(sizes); error != 0)
        return error;
    bytes_ = manifest.bytes;
    if (const int error = take_shared(manifest); error != 0)
        return error;
    return runtime_->set_access({address_, reserved_}, abi::kAccessRead);
}

// On an error the destructor gives back what was taken.
int BufferImpl::take_shared(const Manifest &manifest) {
    std::vector<broker::Lease> reserved;
    int error = 0;
    for (std::size_t start = 0; start < extents_.size() && error == 0; start += broker::kMaxItems) {
        const std::size_t end = std::min(extents_.size(), start + broker::kMaxItems);
        std::vector<broker::Content> contents;
        for (std::size_t i = start; i < end; ++i)
            contents.push_back(content_of(extents_[i].bytes, manifest.extents[i].tag));
        std::vector<broker::Found> found;
        error = runtime_->broker->find(contents, found);
        for (std::size_t i = 0; i < found.size(); ++i) {
            Extent &extent = extents_[start + i];
            broker::Found &one = found[i];
            if (one.state == broker::State::kReserved)
                reserved.push_back(one.lease);
            if (error == 0 && one.state != broker::State::kShared)
                error =
                    fail(ENOENT, "the broker does not know extent %zu of the manifest", start + i);
            if (one.state != broker::State::kShared)
                continue;
            extent.lease = one.lease;
            extent.tag = manifest.extents[start + i].tag;
            if (error == 0 && one.fd < 0)
                error = fail(EMFILE, "no descriptor left for extent %zu", start + i);
            if (error == 0)
                error = runtime_->check(
                    runtime_->api.mem_import(&extent.handle,
                                             reinterpret_cast<void *>(std::intptr_t{one.fd}),
                                             abi::kHandlePosixFd),
                    "cuMemImportFromShareableHandle");
            if (one.fd >= 0)
                ::close(one.fd);
            if (error == 0)
                error = runtime_->check(
                    runtime_->api.mem_map(extent.address, extent.bytes, 0, extent.handle, 0),
                    "cuMemMap");
            extent.shared = true;
        }
    }
    const std::string reason = error != 0 ? last_error() : "";
    (void)runtime_->broker->abandon(reserved);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

} // namespace upm::cuda
