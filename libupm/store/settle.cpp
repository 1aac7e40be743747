// SPDX-License-Identifier: MIT
//
// The half of the merger that touches the program's memory. For each batch:
// freeze it, compare it with the segment, map the segment over what is equal, let
// the rest go. Between freezing and letting go nothing may write to memory of the
// program, wait for anyone, or run one of its signal handlers: a writer to frozen
// memory waits for this very thread.
#include "libupm/store/merger.hpp"

#include "libupm/store/scratch.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace upm::store {

namespace {

constexpr int kDontUnmap = 4; // MREMAP_DONTUNMAP

// So many pages in a row that differ end a guess.
constexpr std::uint32_t kPatience = 8;

// Has the kernel map the view, many pages with each fault, before any writer waits.
void touch(const std::byte *view, std::size_t size) noexcept {
    constexpr std::size_t kAround = 64UL * 1024; // what it maps around a fault, aligned
    const std::size_t ahead = reinterpret_cast<std::uintptr_t>(view) % kAround;
    for (std::size_t at = 0; at < size; at += at == 0 ? kAround - ahead : kAround)
        (void)*static_cast<const volatile std::byte *>(view + at);
}

// There is a hole now where the program's memory was, and what was there cannot be
// mapped: it must not read zeros, or what another thread maps there.
[[noreturn]] void fail_stop() noexcept {
    constexpr char kText[] = "upm: cannot map a merged page again: out of memory for mappings\n";
    (void)!::write(STDERR_FILENO, kText, sizeof(kText) - 1);
    ::abort();
}

} // namespace

// Part of a group, with a view of the segment that becomes the program's memory
// where both are equal. Pages are counted from the batch's first one.
struct Merger::Batch {
    std::uint32_t first; // page of the window
    std::uint32_t count;
    bool guess;
    Open *open;
    std::uint32_t segment_page; // what the view begins with
    std::byte *view = nullptr;
    std::uint32_t view_pages = 0;
    // Progress. A run are equal pages that are not mapped yet.
    std::uint32_t next = 0; // page to be compared
    std::uint32_t view_next = 0;
    std::uint32_t run = 0;       // its length; it ends before `next`
    std::uint32_t differing = 0; // in a row
    bool stopped = false;
};

int Merger::freeze(std::uint64_t at, std::uint32_t pages) noexcept {
    if (!registered_) {
        const int ret = freezer_.begin(part_.start, part_.end - part_.start, part_.protection);
        if (ret != 0)
            return ret;
        registered_ = true;
    }
    return freezer_.freeze(at, pages * page_size());
}

// A page that came into being after the rest was frozen is not frozen.
bool Merger::frozen(std::uint64_t entry) const noexcept {
    if (freezer_.complete())
        return true;
    return (entry & kPresent) != 0 && (!freezer_.exact() || (entry & kWriteProtected) != 0);
}

bool Merger::afford(std::uint32_t pages) noexcept {
    RunBudget &budget = tools_.budget;
    const std::uint32_t used = budget.used.load(std::memory_order_relaxed);
    if (used >= budget.limit || (used >= RunBudget::kFree && pages < RunBudget::kMinRun))
        return false;
    budget.used.fetch_add(1, std::memory_order_relaxed);
    return true;
}

// How many pages from this one on may be frozen together.
std::uint32_t Merger::room_in_batch(std::uint32_t index) const noexcept {
    return kBatch - static_cast<std::uint32_t>(address(index) / page_size() % kBatch);
}

// Maps a part of a segment over the program's memory. The kernel does that under one
// lock: other threads see the old pages or the new ones. If it refuses, it does so
// before it unmaps, as a rule.
bool Merger::map_file(std::uint64_t at, std::uint32_t pages, int fd, std::uint32_t page) noexcept {
    const std::size_t size = pages * page_size();
    const auto map = [&] {
        return ::mmap(pointer(at), size, part_.protection, MAP_PRIVATE | MAP_FIXED, fd,
                      static_cast<off_t>(page * page_size())) != MAP_FAILED;
    };
    if (map())
        return true;
    if (::msync(pointer(at), size, MS_ASYNC) == 0)
        return false;
    if (!map())
        fail_stop();
    return true;
}

// The same with the page tables of a part of the view, by moving them there. The view
// stays mapped, so that its addresses remain ours; kernels before 5.13 cannot do that.
bool Merger::map_over(std::uint64_t at, std::byte *from, std::uint32_t pages, const Batch &batch,
                      std::uint32_t page) noexcept {
    constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap;
    const std::size_t size = pages * page_size();
    return ::mremap(from, size, size, kFlags, pointer(at)) != MAP_FAILED ||
           map_file(at, pages, batch.open->fd, batch.segment_page + page);
}

// Maps the run that ends here.
void Merger::flush(Batch &batch) noexcept {
    if (batch.run == 0)
        return;
    const std::uint32_t start = batch.next - batch.run;
    const std::uint32_t view_start = batch.view_next - batch.run;
    const std::uint32_t run = batch.run;
    batch.run = 0;
    if (!afford(run)) {
        for (std::uint32_t i = start; i < batch.next; ++i)
            skip(batch.first + i, UPM_SKIPPED_LIMIT);
        return;
    }
    const std::uint64_t at = address(batch.first + start);
    if (!map_over(at, batch.view + view_start * page_size(), run, batch, view_start)) {
        for (std::uint32_t i = start; i < batch.next; ++i)
            skip(batch.first + i, UPM_SKIPPED_NOMEM);
        return;
    }
    std::fill_n(scratch_->mapped + start, run, true);
    freezer_.wake(at, run * page_size());
    for (std::uint32_t i = start; i < batch.next; ++i)
        ++(scratch_->state[batch.first + i] == PageState::kNew ? counts_.inserted : counts_.merged);
    finish(batch.first + start, run);
    batch.open->mapped += run;
}

// Compares page by page, and maps what is equal.
void Merger::compare(Batch &batch) noexcept {
    while (batch.next < batch.count && batch.view_next < batch.view_pages && !batch.stopped) {
        const std::byte *const mine = page(batch.first + batch.next);
        const bool there = frozen(scratch_->pagemap[batch.next]);
        if (there &&
            std::memcmp(mine, batch.view + batch.view_next * page_size(), page_size()) == 0) {
            ++batch.run;
            ++batch.next;
            ++batch.view_next;
            batch.differing = 0;
            continue;
        }
        flush(batch);
        if (batch.guess && there && is_zero(mine)) {
            // Segments hold no such pages, so the next one is looked for here.
            scratch_->state[batch.first + batch.next] = PageState::kZero;
        } else {
            ++batch.view_next;
            batch.stopped = batch.guess && ++batch.differing == kPatience;
        }
        ++batch.next;
    }
    flush(batch);
}

// Post: 0, and the part is frozen and its state in the scratch memory; or -errno.
int Merger::freeze_and_look(std::uint64_t at, std::uint32_t pages) noexcept {
    std::fill_n(scratch_->mapped, pages, false);
    int ret = freeze(at, pages);
    if (ret != 0 || freezer_.complete())
        return ret;
    ret = read_pagemap(at, pages, scratch_->pagemap);
    if (ret != 0)
        let_go(at, pages);
    return ret;
}

// Thaws what is left of a frozen part.
void Merger::let_go(std::uint64_t at, std::uint32_t pages) noexcept {
    for (std::uint32_t i = 0; i < pages;) {
        const std::uint32_t start = i;
        while (i < pages && scratch_->mapped[i] == scratch_->mapped[start])
            ++i;
        if (!scratch_->mapped[start])
            freezer_.thaw(at + start * page_size(), (i - start) * page_size());
    }
}

// Maps what a batch is compared with. It lies to a huge page as the batch does, so that
// the kernel can move page tables as a whole. 0 or -errno.
int Merger::map_view(Batch &batch) noexcept {
    if (!view_ && !view_.reserve(kBatch * page_size()))
        return -ENOMEM;
    batch.view_pages = std::min(batch.count, batch.open->pages - batch.segment_page);
    batch.view = view_.data() + address(batch.first) % (kBatch * page_size());
    const std::size_t size = batch.view_pages * page_size();
    if (::mmap(batch.view, size, part_.protection, MAP_PRIVATE | MAP_FIXED, batch.open->fd,
               static_cast<off_t>(batch.segment_page * page_size())) == MAP_FAILED)
        return -errno;
    touch(batch.view, size);
    return 0;
}

// 0, or -errno if nothing can be done here.
int Merger::settle_batch(Batch &batch) noexcept {
    int ret = breathe();
    if (ret == 0)
        ret = map_view(batch);
    if (ret != 0)
        return ret;
    const NoSignals guard;
    ret = freeze_and_look(address(batch.first), batch.count);
    if (ret == 0) {
        compare(batch);
        let_go(address(batch.first), batch.count);
    }
    return ret;
}

void Merger::skip_group(std::uint32_t first, std::uint32_t count, int error) noexcept {
    unsigned reason = UPM_SKIPPED_UNSUPPORTED;
    if (error == -EBUSY)
        reason = UPM_SKIPPED_UFFD;
    else if (error == -ENOMEM || error == -EMFILE || error == -ENFILE)
        reason = UPM_SKIPPED_NOMEM;
    if (error_ == 0 && reason == UPM_SKIPPED_NOMEM)
        error_ = error;
    for (std::uint32_t i = first; i < first + count; ++i)
        skip(i, reason);
}

// Merges what is equal to the segment. Post: 0, and `stopped` is the page behind
// the last one that was looked at; or -errno: the broker cannot be reached.
int Merger::settle(const Group &group, std::uint32_t &stopped) noexcept {
    stopped = group.first + group.count;
    guess_ = {};
    int error = 0;
    Open *const open = open_segment(group.place.segment, error);
    if (open == nullptr && (error == -EMFILE || error == -ENFILE || error == -ENOMEM)) {
        skip_group(group.first, group.count, error);
        return 0;
    }
    if (open == nullptr)
        return error == -ENOENT ? 0 : error; // ENOENT: it has just gone
    const std::uint32_t end = stopped;
    std::uint32_t at = group.first;
    std::uint32_t page = group.place.page;
    while (at < end && page < open->pages) {
        Batch batch{.first = at,
                    .count = std::min(end - at, room_in_batch(at)),
                    .guess = group.guess,
                    .open = open,
                    .segment_page = page};
        const int ret = settle_batch(batch);
        if (ret == -ECANCELED)
            return ret;
        if (ret != 0) {
            skip_group(at, end - at, ret);
            return 0;
        }
        at += batch.next;
        page += batch.view_next;
        stopped = at;
        if (batch.stopped)
            return 0;
    }
    if (page < open->pages)
        guess_ = {.segment = group.place.segment, .page = page};
    return 0;
}

// Memory of zeros needs no memory: a later read finds the kernel's page of zeros.
bool Merger::drop_zeros(std::uint64_t at, std::uint32_t count) noexcept {
    const std::size_t size = count * page_size();
    if ((part_.flags & kVmaSegment) == 0)
        return ::madvise(pointer(at), size, MADV_DONTNEED) == 0;
    // There it would bring the segment's old bytes back.
    return afford(count) && ::mmap(pointer(at), size, part_.protection,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

void Merger::settle_zeros(std::uint32_t first, std::uint32_t count) noexcept {
    if (breathe() != 0)
        return;
    const std::uint64_t at = address(first);
    const NoSignals guard;
    const int ret = freeze_and_look(at, count);
    if (ret != 0) {
        skip_group(first, count, ret);
        return;
    }
    const auto zero = [&](std::uint32_t i) {
        return frozen(scratch_->pagemap[i]) && is_zero(page(first + i));
    };
    for (std::uint32_t i = 0; i < count;) {
        std::uint32_t run = 0;
        while (i + run < count && zero(i + run))
            ++run;
        if (run != 0 && drop_zeros(at + i * page_size(), run)) {
            counts_.zero += run;
            finish(first + i, run);
            if ((part_.flags & kVmaSegment) != 0) {
                std::fill_n(scratch_->mapped + i, run, true);
                freezer_.wake(at + i * page_size(), run * page_size());
            }
        } else {
            run = std::max(run, 1U);
            for (std::uint32_t j = i; j < i + run; ++j)
                skip(first + j, UPM_SKIPPED_BUSY);
        }
        i += run;
    }
    let_go(at, count);
}

void Merger::settle_zeros() noexcept {
    for (std::uint32_t i = 0; i < pages_;) {
        std::uint32_t count = 0;
        while (i + count < pages_ && count < kBatch &&
               scratch_->state[i + count] == PageState::kZero)
            ++count;
        if (count != 0)
            settle_zeros(i, count);
        i += std::max(count, 1U);
    }
}

// Puts private copies in place of a part. 0 or -errno.
int Merger::copy_over(std::uint64_t at, std::size_t size) noexcept {
    void *const copy =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return -errno;
    // Before anybody has to wait for it. If it fails, memcpy does it.
    (void)::madvise(copy, size, MADV_POPULATE_WRITE);
    const NoSignals guard;
    int ret = freeze(at, static_cast<std::uint32_t>(size / page_size()));
    if (ret == 0) {
        std::memcpy(copy, pointer(at), size);
        if ((part_.protection & PROT_WRITE) == 0)
            (void)::mprotect(copy, size, part_.protection);
        if (::mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(at)) != MAP_FAILED) {
            freezer_.wake(at, size);
            return 0;
        }
        ret = -errno;
        if (::msync(pointer(at), size, MS_ASYNC) != 0)
            fail_stop();
        freezer_.thaw(at, size);
    }
    (void)::munmap(copy, size);
    return ret;
}

int Merger::unmerge_batch(std::uint64_t at, std::uint32_t pages) noexcept {
    int ret = read_pagemap(at, pages, scratch_->pagemap);
    if (ret != 0)
        return ret;
    std::uint32_t shared = 0;
    for (std::uint32_t i = 0; i < pages; ++i) {
        const std::uint64_t entry = scratch_->pagemap[i];
        if ((entry & kSwapped) == 0 && ((entry & kPresent) == 0 || (entry & kFilePage) != 0))
            ++shared;
    }
    if (shared != 0)
        ret = copy_over(at, pages * page_size());
    if (ret != 0)
        return ret;
    counts_.unmerged += shared;
    counts_.kept += pages - shared;
    counts_.pages += pages;
    return 0;
}

int Merger::unmerge(const Vma &part) noexcept {
    part_ = part;
    int ret = 0;
    for (std::uint64_t at = part.start; at < part.end && ret == 0;) {
        const auto pages = static_cast<std::uint32_t>(
            std::min<std::uint64_t>(kBatch, (part.end - at) / page_size()));
        ret = unmerge_batch(at, pages);
        at += pages * page_size();
    }
    if (registered_)
        freezer_.end();
    registered_ = false;
    return ret;
}

} // namespace upm::store
