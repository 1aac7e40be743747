// SPDX-License-Identifier: MIT
//
// Finding out where the content of each page is, or publishing it. What is done
// to the program's memory is in store_settle.cpp.
#include "libupm/store/merger.hpp"

#include "libupm/mm/pagemap.hpp"
#include "libupm/store/hash.hpp"
#include "libupm/store/scratch.hpp"
#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {

namespace {

// Pages that are hashed to find out whether a window is known at all; a window
// smaller than the second number is hashed as a whole.
constexpr std::uint32_t kSample = 16;
constexpr std::uint32_t kWorthSampling = 64;

} // namespace

Merger::Merger(const Tools &tools, upm_counts &counts) noexcept
    : tools_(tools), counts_(counts), freezer_(tools.mode) {}

Merger::~Merger() {
    for (Open &open : open_)
        close_segment(open, true);
    if (tools_.gate != nullptr)
        (void)tools_.gate->leave();
    if (slot_ != ConnectionPool::kSlots)
        tools_.pool.put_back(slot_);
    if (pagemap_ >= 0)
        ::close(pagemap_);
    if (scratch_ != nullptr)
        (void)::munmap(scratch_, sizeof(Scratch));
}

int Merger::begin() noexcept {
    void *const memory = ::mmap(nullptr, sizeof(Scratch), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    scratch_ = static_cast<Scratch *>(memory);
    pagemap_ = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    return pagemap_ >= 0 ? 0 : -errno;
}

int Merger::connect(const DomainKey &domain) noexcept {
    std::size_t slot = 0;
    const int ret = tools_.pool.acquire(tools_.path, domain, slot);
    if (ret == 0) {
        slot_ = slot;
        connection().use_gate(tools_.gate);
    }
    return ret;
}

int Merger::enter() noexcept {
    outside_ = tools_.gate != nullptr && !tools_.gate->enter();
    return outside_ ? -ECANCELED : 0;
}

// Lets others in between two batches.
int Merger::breathe() noexcept {
    outside_ = outside_ || (tools_.gate != nullptr && !tools_.gate->breathe());
    return outside_ ? -ECANCELED : 0;
}

int Merger::advise(const Vma &part) noexcept {
    part_ = part;
    guess_ = {};
    int ret = 0;
    for (std::uint64_t at = part.start; at < part.end && ret == 0;) {
        // Windows end where huge pages may begin, so that none is cut.
        auto pages = static_cast<std::uint32_t>(
            std::min<std::uint64_t>(kMaxPages, (part.end - at) / page_size()));
        if (at + pages * page_size() < part.end)
            pages -= static_cast<std::uint32_t>((at / page_size() + pages) % kBatch);
        ret = window(at, pages);
        at += pages * page_size();
    }
    if (registered_ && outside_)
        freezer_.drop();
    else if (registered_)
        freezer_.end();
    registered_ = false;
    return ret;
}

// Once more with a new connection if the broker went away: what it had found, its
// segments' names and the seed of the hashes are of no use any more.
int Merger::window(std::uint64_t start, std::uint32_t pages) noexcept {
    window_ = start;
    pages_ = pages;
    int ret = classify();
    if (ret != 0)
        return ret;
    ret = merge_window();
    if (broken(ret)) {
        for (Open &open : open_)
            close_segment(open, false);
        guess_ = {};
        const int reopened = tools_.pool.reopen(tools_.path, slot_);
        ret = reopened != 0 ? reopened : merge_window();
    }
    if (ret == -ECANCELED) {
        outside_ = true;
        (void)connection().release(); // what was reserved for nothing
        return ret;
    }
    settle_zeros();
    return ret;
}

// What was found out about pages does not count any more.
void Merger::forget_states() noexcept {
    auto *const begin = scratch_->state;
    for (std::uint32_t i = 0; i < pages_; ++i)
        if (begin[i] == PageState::kNew || begin[i] == PageState::kKnown)
            begin[i] = PageState::kTodo;
}

int Merger::merge_window() noexcept {
    forget_states();
    auto *const begin = scratch_->state;
    const auto todo =
        static_cast<std::uint32_t>(std::count(begin, begin + pages_, PageState::kTodo));
    if (todo == 0)
        return 0;
    int ret = todo > kWorthSampling || guess_.segment != kUnknown ? follow_guesses() : 0;
    if (ret == 0)
        ret = find_rest();
    return ret;
}

// Sets the state of each page of the window, and counts those that are out of it.
// Pages of a segment are no anonymous ones, until the program writes to them.
int Merger::classify() noexcept {
    const bool segment = (part_.flags & kVmaSegment) != 0;
    if (!segment && all_present(pagemap_, window_, pages_ * page_size())) {
        std::fill_n(scratch_->state, pages_, PageState::kTodo);
        return 0;
    }
    const int ret = read_pagemap(window_, pages_, scratch_->pagemap);
    if (ret != 0)
        return ret;
    for (std::uint32_t i = 0; i < pages_; ++i) {
        const std::uint64_t entry = scratch_->pagemap[i];
        scratch_->state[i] = PageState::kTodo;
        if ((entry & kSwapped) != 0) {
            skip(i, UPM_SKIPPED_SWAPPED);
        } else if (segment && ((entry & kPresent) == 0 || (entry & kFilePage) != 0)) {
            ++counts_.already;
            finish(i, 1);
        } else if ((entry & kPresent) == 0) {
            skip(i, UPM_SKIPPED_NOT_PRESENT);
        }
    }
    return 0;
}

// Programs load the same files in the same order. So the page after one that was
// found is looked for behind it, and compared without being hashed.
int Merger::follow_guesses() noexcept {
    for (std::uint32_t from = 0; from < pages_;) {
        while (from < pages_ && scratch_->state[from] != PageState::kTodo)
            ++from;
        if (from == pages_)
            break;
        if (guess_.segment == kUnknown) {
            const int ret = sample(from);
            if (ret != 0)
                return ret;
            if (guess_.segment == kUnknown)
                break;
        }
        Group group{.first = from, .count = 0, .place = guess_, .guess = true};
        while (from + group.count < pages_ &&
               scratch_->state[from + group.count] == PageState::kTodo)
            ++group.count;
        const int ret = settle(group, from);
        if (ret != 0)
            return ret;
    }
    return 0;
}

// Looks a few pages up. Post: guess_ and its page `from`, or no guess.
int Merger::sample(std::uint32_t &from) noexcept {
    const std::uint32_t hashed = hash_pages(from, kSample);
    if (hashed == 0)
        return 0;
    const int ret = look_up(hashed, false);
    if (ret != 0)
        return ret;
    for (std::uint32_t i = 0; i < hashed; ++i) {
        if (is_segment(scratch_->places[i].segment)) {
            guess_ = scratch_->places[i];
            from = scratch_->index[i];
            break;
        }
    }
    return 0;
}

std::uint64_t Merger::hash_of(const std::byte *page) noexcept {
    return hash_bytes(page, page_size(), connection().seed());
}

// Hashes up to `limit` pages that are to be done. Their hashes and numbers are
// then in the scratch memory; pages of zeros are only marked.
std::uint32_t Merger::hash_pages(std::uint32_t from, std::uint32_t limit) noexcept {
    std::uint32_t hashed = 0;
    for (std::uint32_t i = from; i < pages_ && hashed < limit; ++i) {
        if (scratch_->state[i] != PageState::kTodo)
            continue;
        if (is_zero(page(i))) {
            scratch_->state[i] = PageState::kZero;
            continue;
        }
        scratch_->hashes[hashed] = hash_of(page(i));
        scratch_->index[hashed] = i;
        ++hashed;
    }
    return hashed;
}

// Asks where the pages are that were hashed; with the answer comes the segment that is
// likely to be needed first.
int Merger::look_up(std::uint32_t hashed, bool reserve) noexcept {
    const std::span places(scratch_->places, hashed);
    Connection::Attached attached;
    const int ret = connection().lookup({scratch_->hashes, hashed}, reserve, places,
                                        scratch_->packet, &attached);
    if (attached.fd < 0)
        return ret;
    const auto first = std::find_if(places.begin(), places.end(),
                                    [](const Place &place) { return is_segment(place.segment); });
    if (first != places.end() && find_open(first->segment) == nullptr)
        adopt(first->segment, attached.pages, attached.fd);
    else
        ::close(attached.fd);
    return ret;
}

int Merger::find_rest() noexcept {
    const std::uint32_t hashed = hash_pages(0, kMaxPages);
    if (hashed == 0)
        return 0;
    int ret = look_up(hashed, true);
    if (ret != 0)
        return ret;
    bool reserved = false;
    for (std::uint32_t i = 0; i < hashed; ++i) {
        const Place place = scratch_->places[i];
        const bool ours = place.segment == kReserved;
        if (place.segment == kRefused || place.segment == kUnknown)
            skip(scratch_->index[i], UPM_SKIPPED_LIMIT);
        else
            scratch_->state[scratch_->index[i]] = ours ? PageState::kNew : PageState::kKnown;
        reserved = reserved || ours;
    }
    // First what others may be waiting for.
    if (reserved)
        ret = insert(hashed);
    if (ret == kAgain) {
        forget_states();
        return find_rest();
    }
    return ret != 0 ? ret : settle_hashed(hashed);
}

// Maps all pages whose places are known, in groups as large as can be.
int Merger::settle_hashed(std::uint32_t hashed) noexcept {
    const auto ready = [&](std::uint32_t i) {
        const PageState state = scratch_->state[scratch_->index[i]];
        return state == PageState::kNew || state == PageState::kKnown;
    };
    for (std::uint32_t i = 0; i < hashed;) {
        if (!ready(i)) {
            ++i;
            continue;
        }
        Group group{.first = scratch_->index[i], .count = 1, .place = scratch_->places[i]};
        for (++i; i < hashed && ready(i) && scratch_->index[i] == group.first + group.count &&
                  scratch_->places[i] ==
                      Place{.segment = group.place.segment, .page = group.place.page + group.count};
             ++i)
            ++group.count;
        std::uint32_t stopped = 0;
        const int ret = settle(group, stopped);
        if (ret != 0)
            return ret;
    }
    // Not what they were, or not what somebody claimed.
    for (std::uint32_t i = 0; i < hashed; ++i) {
        if (!ready(i))
            continue;
        const std::uint32_t index = scratch_->index[i];
        const bool same = hash_of(page(index)) == scratch_->hashes[i];
        skip(index, same && scratch_->places[i].segment != kUnknown ? UPM_SKIPPED_COLLISION
                                                                    : UPM_SKIPPED_BUSY);
    }
    return 0;
}

Merger::Open *Merger::find_open(std::uint32_t segment) noexcept {
    Open *const found = std::find_if(open_, open_ + kOpen, [&](const Open &open) {
        return open.fd >= 0 && open.segment == segment;
    });
    return found != open_ + kOpen ? found : nullptr;
}

Merger::Open *Merger::open_segment(std::uint32_t segment, int &error) noexcept {
    if (Open *const open = find_open(segment); open != nullptr)
        return open;
    int fd = -1;
    std::uint32_t pages = 0;
    error = connection().get(segment, fd, pages);
    return error == 0 ? &adopt(segment, pages, fd) : nullptr;
}

Merger::Open &Merger::adopt(std::uint32_t segment, std::uint32_t pages, int fd) noexcept {
    Open &open = open_[next_open_++ % kOpen];
    close_segment(open, true);
    open = {.segment = segment, .pages = pages, .fd = fd, .mapped = 0};
    return open;
}

void Merger::close_segment(Open &open, bool tell) noexcept {
    if (open.fd < 0)
        return;
    if (tell && open.mapped != 0)
        (void)connection().report(open.segment, open.mapped);
    ::close(open.fd);
    open = {};
}

void Merger::skip(std::uint32_t index, unsigned reason) noexcept {
    ++counts_.skipped[reason];
    finish(index, 1);
}

void Merger::finish(std::uint32_t first, std::uint32_t count) noexcept {
    counts_.pages += count;
    std::fill_n(scratch_->state + first, count, PageState::kDone);
}

int Merger::read_pagemap(std::uint64_t at, std::uint32_t pages, std::uint64_t *entries) noexcept {
    const std::size_t size = pages * sizeof(*entries);
    const auto offset = static_cast<off_t>(at / page_size() * sizeof(*entries));
    const ssize_t got = ::pread(pagemap_, entries, size, offset);
    if (got == static_cast<ssize_t>(size))
        return 0;
    return got < 0 ? -errno : -EIO;
}

std::uint64_t Merger::address(std::uint32_t index) const noexcept {
    return window_ + index * page_size();
}

const std::byte *Merger::page(std::uint32_t index) const noexcept {
    return reinterpret_cast<const std::byte *>(address(index));
}

} // namespace upm::store
