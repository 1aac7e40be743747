// SPDX-License-Identifier: MIT
//
// Sharing: freeze, hash, ask the broker, compare, remap; and attaching.
#include "cuda-cow/core/buffer_impl.hpp"
#include "cuda-cow/kernels/reference.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <unistd.h>
#include <utility>

namespace upm::cuda {

namespace {

// Of one batch, at most: what it replaces is freed while the next one is hashed.
constexpr std::size_t kAdviseBytes = 1UL << 30;

broker::Content content_of(std::size_t bytes, const Tag &tag) {
    return {.bytes = bytes, .tag_low = tag.low, .tag_high = tag.high};
}

// Errors that every further call of the driver would have as well.
bool is_final(int error) {
    return error == EFAULT || error == ENODEV;
}

} // namespace

int BufferImpl::advise(std::size_t offset, std::size_t length, AdviseCounts &counts) {
    if (const int error = check_process(); error != 0)
        return error;
    if (length == SIZE_MAX && offset <= bytes_)
        length = bytes_ - offset;
    if (const int error = check_range(offset, length); error != 0)
        return error;
    const std::lock_guard<std::mutex> alone(advising_);
    const CurrentContext current(*runtime_);
    const Indices range = inside(offset, length);
    Indices todo;
    int error = begin_advise(range, todo, counts);
    for (std::size_t start = 0; start < todo.size() && error == 0;) {
        Indices batch;
        for (std::size_t bytes = 0;
             start < todo.size() && batch.size() < broker::kMaxItems && bytes < kAdviseBytes;
             bytes += extents_[todo[start++]].bytes)
            batch.push_back(todo[start]);
        error = advise_batch(batch, counts);
    }
    free_old();
    const std::string reason = error != 0 ? last_error() : "";
    const int thawed = end_advise(range, todo, counts);
    return error != 0 ? fail(error, "%s", reason.c_str()) : thawed;
}

// Takes in hand what is to be shared, and waits for whatever writes it, of any stream.
int BufferImpl::begin_advise(const Indices &range, Indices &todo, AdviseCounts &counts) {
    const std::uint64_t live = runtime_->broker->live_connection();
    {
        const std::lock_guard<std::mutex> guard(work_);
        for (const std::size_t index : range) {
            Extent &extent = extents_[index];
            // What a lost broker knew is offered to the next one.
            if (extent.shared() && live != 0 && extent.lease.connection == live)
                continue;
            todo.push_back(index);
            extent.in_hand = true;
        }
    }
    counts.extents = range.size();
    counts.already = range.size() - todo.size();
    return todo.empty()
               ? 0
               : runtime_->check(runtime_->api.ctx_synchronize(), "waiting for the device");
}

std::vector<Piece> BufferImpl::pieces_of(const Indices &indices) const {
    std::vector<Piece> pieces;
    for (const std::size_t index : indices)
        pieces.push_back({extents_[index].address, extents_[index].bytes});
    return pieces;
}

// The memory that was replaced: the driver takes time to free it, which the GPU may have as
// well.
void BufferImpl::free_old(std::size_t most) {
    for (; most != 0 && !old_.empty(); --most) {
        (void)runtime_->api.mem_release(old_.back());
        old_.pop_back();
    }
}

int BufferImpl::end_advise(const Indices &range, const Indices &todo, AdviseCounts &counts) {
    const std::lock_guard<std::mutex> guard(work_);
    Indices rest;
    for (const std::size_t index : todo) {
        extents_[index].in_hand = false;
        if (extents_[index].state == State::kFrozen)
            rest.push_back(index);
    }
    const int thawed = thaw_all(rest);
    fill_spares();
    for (const std::size_t index : range)
        counts.bytes += extents_[index].shared() ? extents_[index].bytes : 0;
    return thawed;
}

int BufferImpl::freeze_all(const Indices &indices) {
    if (indices.empty())
        return 0;
    const Exclusive exclusive(*runtime_);
    return exclusive.error() != 0 ? exclusive.error() : freeze(indices);
}

int BufferImpl::thaw_all(const Indices &indices) {
    if (indices.empty())
        return 0;
    const Exclusive exclusive(*runtime_);
    return exclusive.error() != 0 ? exclusive.error() : thaw(indices);
}

// Leaves those out that were written since the advise began.
int BufferImpl::hash_batch(Indices &batch, std::vector<Tag> &tags, AdviseCounts &counts) {
    broker::Welcome welcome;
    if (const int error = runtime_->broker->welcome(welcome); error != 0)
        return error;
    const std::lock_guard<std::mutex> guard(work_);
    counts.refused +=
        std::erase_if(batch, [this](const std::size_t index) { return !extents_[index].in_hand; });
    if (batch.empty())
        return 0;
    keys_ = make_keys(welcome.seed_low, welcome.seed_high);
    // A third of it: to compare takes twice as long as to hash.
    return runtime_->hasher->tag(pieces_of(batch), keys_, tags,
                                 [this] { free_old((old_.size() + 2) / 3); });
}

int BufferImpl::advise_batch(Indices batch, AdviseCounts &counts) {
    std::vector<Tag> tags;
    std::vector<broker::Found> found;
    if (const int error = hash_batch(batch, tags, counts); error != 0)
        return error;
    if (batch.empty())
        return 0;
    const std::lock_guard<std::mutex> alone(runtime_->negotiation);
    std::vector<broker::Content> contents;
    for (std::size_t i = 0; i < batch.size(); ++i)
        contents.push_back(content_of(extents_[batch[i]].bytes, tags[i]));
    if (const int error = runtime_->broker->find(contents, found); error != 0)
        return error;
    return settle(batch, tags, found, counts);
}

int BufferImpl::settle(const Indices &batch, const std::vector<Tag> &tags,
                       std::vector<broker::Found> &found, AdviseCounts &counts) {
    {
        const std::lock_guard<std::mutex> guard(work_);
        for (std::size_t i = 0; i < batch.size(); ++i)
            if (extents_[batch[i]].in_hand)
                extents_[batch[i]].tag = tags[i];
    }
    for (const broker::Found &one : found)
        if (one.state == broker::State::kRefused)
            ++counts.refused;
    // First what others wait for, then what this process may have to wait for.
    const int published = publish(batch, found, counts);
    const int merged = merge(batch, found, counts);
    if (published != 0 || merged != 0)
        return published != 0 ? published : merged;
    return wait_for_busy(batch, tags, found, counts);
}

// Whoever imported memory cannot export it. What is to be offered all the same, to a broker
// that came after the one that is lost, becomes a copy that can; the others merge with that
// when they advise, and the memory from before goes with its last user. What there is no
// memory for stays as it is, shared with those that have it. Error: a final one only. Pre:
// `work_` is held.
int BufferImpl::make_exportable(const Indices &batch, const std::vector<broker::Found> &found) {
    Indices imported;
    for (std::size_t i = 0; i < batch.size(); ++i)
        if (found[i].state == broker::State::kReserved && extents_[batch[i]].in_hand &&
            extents_[batch[i]].imported)
            imported.push_back(batch[i]);
    std::uint64_t copied = 0;
    const int error = copy(imported, State::kFrozen, copied);
    return is_final(error) ? error : 0;
}

// New extents become read-only, and are hashed again: nothing kept a launch from writing to
// them since the first time. What was written is left out. Pre: `work_` is held.
int BufferImpl::freeze_new(const Indices &batch, const std::vector<broker::Found> &found) {
    Indices fresh;
    for (std::size_t i = 0; i < batch.size(); ++i)
        if (const Extent &extent = extents_[batch[i]]; found[i].state == broker::State::kReserved &&
                                                       extent.in_hand &&
                                                       extent.state == State::kPrivate)
            fresh.push_back(batch[i]);
    if (fresh.empty())
        return 0;
    std::vector<Tag> tags;
    int error = freeze_all(fresh);
    if (error == 0)
        error = runtime_->hasher->tag(pieces_of(fresh), keys_, tags);
    if (error != 0)
        return error;
    Indices written;
    for (std::size_t i = 0; i < fresh.size(); ++i)
        if (tags[i] != extents_[fresh[i]].tag)
            written.push_back(fresh[i]);
    return thaw_all(written);
}

// Extents that are new, and their exported memory.
struct BufferImpl::Publication {
    Indices extents;
    std::vector<broker::Lease> reservations;
    std::vector<int> fds;
    std::vector<broker::Lease> unused;
};

// From here on will_write copies what is about to leave, in place of making it writable.
int BufferImpl::export_reserved(const Indices &batch, std::vector<broker::Found> &found,
                                Publication &made, AdviseCounts &counts) {
    const std::lock_guard<std::mutex> guard(work_);
    int error = make_exportable(batch, found);
    if (error == 0)
        error = freeze_new(batch, found);
    for (std::size_t i = 0; i < batch.size(); ++i) {
        Extent &extent = extents_[batch[i]];
        if (found[i].state != broker::State::kReserved)
            continue;
        if (!extent.in_hand || extent.imported) {
            made.unused.push_back(found[i].lease);
            found[i].state = broker::State::kRefused;
            ++counts.refused;
            continue;
        }
        int fd = -1;
        const int one = error != 0
                            ? error
                            : runtime_->check(runtime_->api.mem_export(&fd, extent.handle,
                                                                       abi::kHandlePosixFd, 0),
                                              "cuMemExportToShareableHandle");
        if (one == 0) {
            if (extent.state == State::kFrozen)
                extent.state = State::kOffered;
            made.extents.push_back(batch[i]);
            made.reservations.push_back(found[i].lease);
            made.fds.push_back(fd);
            continue;
        }
        made.unused.push_back(found[i].lease);
        found[i].state = broker::State::kRefused;
        // What cannot be exported stays as it was, and spoils nothing for the rest.
        if (is_final(one))
            error = one;
        else
            ++counts.refused;
    }
    return error;
}

// What was written meanwhile has other memory by now, and needs no lease.
void BufferImpl::settle_offer(const Publication &made, bool taken, bool answered) {
    std::vector<broker::Lease> unwanted;
    {
        const std::lock_guard<std::mutex> guard(work_);
        for (std::size_t i = 0; i < made.extents.size(); ++i) {
            Extent &extent = extents_[made.extents[i]];
            if (!taken && extent.state == State::kOffered)
                extent.state = State::kFrozen;
            if (!taken)
                continue;
            // Without an answer others may map it all the same: it stays read-only.
            const broker::Lease lease = answered ? made.reservations[i] : broker::Lease{};
            if (extent.in_hand) {
                extent.state = State::kShared;
                extent.lease = lease;
            } else if (answered) {
                unwanted.push_back(lease);
            }
        }
    }
    runtime_->broker->release(unwanted);
}

// What another process publishes now, since this one was too slow, is kBusy afterwards.
int BufferImpl::publish(const Indices &batch, std::vector<broker::Found> &found,
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
    settle_offer(made, taken, error == 0);
    counts.published += taken ? made.extents.size() : 0;
    (void)runtime_->broker->abandon(made.unused);
    if (!reason.empty())
        return fail(error, "%s", reason.c_str());
    if (!taken && error == ESTALE) {
        for (broker::Found &one : found)
            if (one.state == broker::State::kReserved)
                one.state = broker::State::kBusy;
        error = 0;
    }
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
    int error = 0;
    {
        const std::lock_guard<std::mutex> guard(work_);
        error = import(batch, found, candidates, counts);
        if (error == 0 && !candidates.extents.empty())
            error = replace(candidates, counts);
    }
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

// Closes the descriptors. Pre, for this and the next four: `work_` is held.
int BufferImpl::import(const Indices &batch, std::vector<broker::Found> &found,
                       Candidates &candidates, AdviseCounts &counts) {
    int error = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        broker::Found &one = found[i];
        if (one.state != broker::State::kShared)
            continue;
        abi::Handle handle = 0;
        int failed = 0;
        if (error == 0 && one.fd >= 0 && extents_[batch[i]].in_hand)
            failed = runtime_->check(
                runtime_->api.mem_import(&handle, reinterpret_cast<void *>(std::intptr_t{one.fd}),
                                         abi::kHandlePosixFd),
                "cuMemImportFromShareableHandle");
        // What another published need not be memory of this device at all.
        if (is_final(failed))
            error = failed;
        if (failed != 0)
            handle = 0;
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

// Launches that the hook does not see may come all the same: what they store after the
// comparison must be an error, and not be lost with the memory that is replaced. So extents are
// read-only before they are compared. What stays frozen is thawed at the end of the advise.
int BufferImpl::replace(Candidates &candidates, AdviseCounts &counts) {
    const Exclusive exclusive(*runtime_);
    int error = exclusive.error();
    if (error == 0)
        error = freeze(candidates.extents);
    if (error == 0)
        error = compare(candidates, counts);
    return error != 0 ? error : remap(candidates, counts);
}

// Compares all at once; should that fail, one by one: what another published may be of
// another size, or gone bad, and costs the others nothing.
int BufferImpl::compare(Candidates &candidates, AdviseCounts &counts) {
    const std::size_t all = candidates.extents.size();
    int error = look_at(candidates, 0, all, candidates.different);
    if (error == 0)
        counts.different += static_cast<std::uint64_t>(
            std::count(candidates.different.begin(), candidates.different.end(), true));
    if (error == 0 || is_final(error))
        return error;
    candidates.different.assign(all, true);
    for (std::size_t i = 0; i < all; ++i) {
        std::vector<bool> one;
        error = look_at(candidates, i, 1, one);
        if (is_final(error))
            return error;
        if (error != 0) {
            ++counts.refused;
            continue;
        }
        candidates.different[i] = one[0];
        counts.different += one[0] ? 1 : 0;
    }
    return 0;
}

int BufferImpl::look_at(const Candidates &candidates, std::size_t first, std::size_t count,
                        std::vector<bool> &different) {
    std::vector<abi::Handle> handles;
    std::vector<std::size_t> sizes;
    std::vector<abi::DevicePtr> own;
    for (std::size_t i = first; i < first + count; ++i) {
        const Extent &extent = extents_[candidates.extents[i]];
        handles.push_back(candidates.handles[i]);
        sizes.push_back(extent.bytes);
        own.push_back(extent.address);
    }
    Window window(*runtime_);
    int error = window.open(handles, sizes, abi::kAccessRead);
    if (error == 0)
        error = runtime_->hasher->compare(window.pieces(), own, different, [this] { free_old(); });
    const int closed = window.close();
    return error != 0 ? error : closed;
}

// Runs of neighbours that are equal, each at once. Pre: an Exclusive section.
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
            old_.push_back(extent.handle);
            if (extent.lease.connection != 0)
                unwanted.push_back(extent.lease);
            extent.handle = std::exchange(candidates.handles[i], 0);
            extent.imported = true;
            extent.state = State::kShared;
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
        if (error == 0 && one.front().state == broker::State::kBusy)
            ++counts.refused;
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
    const int error = runtime_->set_access({address_, reserved_}, abi::kAccessRead);
    if (error == 0)
        fill_spares();
    return error;
}

// On an error the destructor gives back what was taken.
int BufferImpl::take_shared(const Manifest &manifest) {
    const std::lock_guard<std::mutex> alone(runtime_->negotiation);
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
            extent.imported = true;
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
            extent.state = State::kShared;
        }
    }
    const std::string reason = error != 0 ? last_error() : "";
    (void)runtime_->broker->abandon(reserved);
    return error != 0 ? fail(error, "%s", reason.c_str()) : 0;
}

} // namespace upm::cuda
