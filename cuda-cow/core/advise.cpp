// SPDX-License-Identifier: MIT
//
// Sharing: freeze, hash, ask the broker, compare, remap; and attaching.
#include "cuda-cow/core/buffer_impl.hpp"
#include "cuda-cow/kernels/reference.hpp"

#include <algorithm>
#include <cerrno>
#include <unistd.h>
#include <utility>

namespace upm::cuda {

namespace {

broker::Content content_of(std::size_t bytes, const Tag &tag) {
    return {.bytes = bytes, .tag_low = tag.low, .tag_high = tag.high};
}

} // namespace

int BufferImpl::advise(std::size_t offset, std::size_t length, AdviseCounts &counts) {
    if (const int error = check_process(); error != 0)
        return error;
    const std::unique_lock<Gate> gate(launch_gate());
    const std::lock_guard<std::mutex> guard(lock_);
    if (length == SIZE_MAX && offset <= bytes_)
        length = bytes_ - offset;
    if (const int error = check_range(offset, length); error != 0)
        return error;
    const CurrentContext current(*runtime_);
    const Indices range = inside(offset, length);
    Indices todo;
    const std::uint64_t live = runtime_->broker->live_connection();
    for (const std::size_t index : range)
        // What a lost broker knew is offered to the next one.
        if (!extents_[index].shared || live == 0 || extents_[index].lease.connection != live)
            todo.push_back(index);
    counts.extents = range.size();
    counts.already = range.size() - todo.size();
    int error = 0;
    // Whatever still writes, of any stream, ends before the memory is frozen.
    if (!todo.empty())
        error = runtime_->check(runtime_->api.ctx_synchronize(), "waiting for the device");
    for (std::size_t start = 0; start < todo.size() && error == 0; start += broker::kMaxItems) {
        const std::size_t end = std::min(todo.size(), start + broker::kMaxItems);
        error = advise_batch(Indices(todo.begin() + static_cast<std::ptrdiff_t>(start),
                                     todo.begin() + static_cast<std::ptrdiff_t>(end)),
                             counts);
    }
    for (const std::size_t index : range)
        counts.bytes += extents_[index].shared ? extents_[index].bytes : 0;
    return error;
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
    int error = freeze(batch);
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
    const int thawed = thaw(rest);
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

// Extents that are new, and their exported memory.
struct BufferImpl::Publication {
    Indices extents;
    std::vector<broker::Lease> reservations;
    std::vector<int> fds;
    std::vector<broker::Lease> unused;
};

int BufferImpl::export_reserved(const Indices &batch, const std::vector<broker::Found> &found,
                                Publication &made, AdviseCounts &counts) {
    int error = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const Extent &extent = extents_[batch[i]];
        if (found[i].state != broker::State::kReserved)
            continue;
        int fd = -1;
        const int one = error != 0
                            ? error
                            : runtime_->check(runtime_->api.mem_export(&fd, extent.handle,
                                                                       abi::kHandlePosixFd, 0),
                                              "cuMemExportToShareableHandle");
        if (one == 0) {
            made.extents.push_back(batch[i]);
            made.reservations.push_back(found[i].lease);
            made.fds.push_back(fd);
            continue;
        }
        made.unused.push_back(found[i].lease);
        // Memory that was imported may not be exported again; it stays as it was.
        if (extent.shared)
            ++counts.refused;
        else
            error = one;
    }
    return error;
}

int BufferImpl::publish(const Indices &batch, const std::vector<broker::Found> &found,
                        AdviseCounts &counts) {
    Publication made;
    int error = export_reserved(batch, found, made, counts);
    const std::string reason = error != 0 ? last_error() : "";
    bool taken = false;
    if (error != 0)
        made.unused.insert(made.unused.end(), made.reservations.begin(), made.reservations.end());
    else if (!made.extents.empty())
        error = runtime_->broker->publish(made.reservations, made.fds, taken);
    for (const int fd : made.fds)
        ::close(fd);
    for (std::size_t i = 0; taken && i < made.extents.size(); ++i) {
        // Without an answer others may map it all the same: it stays read-only.
        Extent &extent = extents_[made.extents[i]];
        extent.shared = true;
        extent.frozen = false;
        extent.lease = error == 0 ? made.reservations[i] : broker::Lease{};
        ++counts.published;
    }
    (void)runtime_->broker->abandon(made.unused);
    if (!reason.empty())
        return fail(error, "%s", reason.c_str());
    if (!taken && (error == ENOSPC || error == EMFILE)) {
        counts.refused += made.extents.size();
        error = 0;
    }
    return error;
}

// What the broker knows already, and may replace extents of this buffer.
struct BufferImpl::Candidates {
    Indices extents;
    std::vector<abi::Handle> handles; // 0: taken over, or given back
    std::vector<broker::Lease> leases;
    std::vector<broker::Lease> unwanted;
    std::vector<bool> different;
};

int BufferImpl::merge(const Indices &batch, std::vector<broker::Found> &found,
                      AdviseCounts &counts) {
    Candidates candidates;
    int error = import(batch, found, candidates, counts);
    if (error == 0)
        error = compare(candidates, counts);
    if (error == 0)
        error = remap(candidates, counts);
    const std::string reason = error != 0 ? last_error() : "";
    for (std::size_t i = 0; i < candidates.handles.size(); ++i) {
        if (candidates.handles[i] == 0)
            continue;
        (void)runtime_->api.mem_release(candidates.handles[i]);
        candidates.unwanted.push_back(candidates.leases[i]);
    }
    runtime_->broker->release(candidates.unwanted);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

// Closes the descriptors.
int BufferImpl::import(const Indices &batch, std::vector<broker::Found> &found,
                       Candidates &candidates, AdviseCounts &counts) {
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
        one.fd = -1;
        if (handle == 0) {
            counts.refused += error == 0 ? 1 : 0;
            candidates.unwanted.push_back(one.lease);
            continue;
        }
        candidates.extents.push_back(batch[i]);
        candidates.handles.push_back(handle);
        candidates.leases.push_back(one.lease);
    }
    return error;
}

int BufferImpl::compare(Candidates &candidates, AdviseCounts &counts) {
    if (candidates.extents.empty())
        return 0;
    std::vector<std::size_t> sizes;
    std::vector<abi::DevicePtr> own;
    for (const std::size_t index : candidates.extents) {
        sizes.push_back(extents_[index].bytes);
        own.push_back(extents_[index].address);
    }
    Window window(*runtime_);
    int error = window.open(candidates.handles, sizes, abi::kAccessRead);
    if (error == 0)
        error = runtime_->hasher->compare(window.pieces(), own, candidates.different);
    const int closed = window.close();
    if (error == 0)
        for (const bool one : candidates.different)
            counts.different += one ? 1 : 0;
    return error != 0 ? error : closed;
}

// Runs of neighbours that are equal, each at once.
int BufferImpl::remap(Candidates &candidates, AdviseCounts &counts) {
    std::vector<broker::Lease> &unwanted = candidates.unwanted;
    for (std::size_t i = 0; i < candidates.extents.size();) {
        if (candidates.different[i]) {
            ++i;
            continue;
        }
        std::size_t count = 1;
        while (count < run_length(candidates.extents, i) && !candidates.different[i + count])
            ++count;
        if (const int error =
                swap(std::span(candidates.extents).subspan(i, count),
                     std::span(candidates.handles).subspan(i, count), abi::kAccessRead);
            error != 0)
            return error;
        for (const std::size_t end = i + count; i < end; ++i) {
            Extent &extent = extents_[candidates.extents[i]];
            (void)runtime_->api.mem_release(extent.handle);
            if (extent.lease.connection != 0)
                unwanted.push_back(extent.lease);
            extent.handle = std::exchange(candidates.handles[i], 0);
            extent.shared = true;
            extent.frozen = false;
            extent.lease = candidates.leases[i];
            ++counts.merged;
        }
    }
    return 0;
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
    if (const int error = check_process(); error != 0)
        return error;
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
    if (const int error = check_process(); error != 0)
        return error;
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
