// SPDX-License-Identifier: MIT
//
// The part of the merger that publishes new content. Pages are copied into a segment
// while they are frozen, and mapped from there at once: copy and original cannot
// differ, so nobody has to compare them. Only then is the segment sealed and handed
// to the broker. If that fails, the pages become private memory again.
#include "libupm/store_merger.hpp"

#include "libupm/store_scratch.hpp"
#include "libupm/store_segment.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {

// Gives each page that was reserved its number in the segment to be: equal ones
// the same, as far as the mappings suffice that this will take.
std::uint32_t Merger::number_unique(std::uint32_t hashed) noexcept {
    constexpr std::uint32_t kMask = Scratch::kTable - 1;
    std::memset(scratch_->table, 0, sizeof(scratch_->table));
    const bool fold = tools_.budget.used.load() < RunBudget::kFree;
    std::uint32_t unique = 0;
    for (std::uint32_t i = 0; i < hashed; ++i) {
        if (scratch_->places[i].segment != kReserved)
            continue;
        const std::uint64_t hash = scratch_->hashes[i];
        auto at = static_cast<std::uint32_t>(hash) & kMask;
        while (fold && scratch_->table[at] != 0 &&
               scratch_->unique[scratch_->table[at] - 1U] != hash)
            at = (at + 1) & kMask;
        if (fold && scratch_->table[at] != 0) {
            scratch_->places[i].page = scratch_->table[at] - 1U;
            scratch_->state[scratch_->index[i]] = PageState::kKnown;
            continue;
        }
        scratch_->unique[unique] = hash;
        scratch_->places[i].page = unique;
        scratch_->table[at] = static_cast<std::uint16_t>(++unique);
    }
    return unique;
}

// Of a run of pages that are frozen and copied: maps the copy over them.
void Merger::place_run(int fd, std::uint32_t first, std::uint32_t count,
                       std::uint32_t segment_page) noexcept {
    if (!afford(count))
        return;
    const std::uint64_t at = address(first);
    if (!map_file(at, count, fd, segment_page))
        return;
    freezer_.wake(at, count * page_size());
    // Or the program would take the faults, and its memory would seem to be gone meanwhile.
    (void)::madvise(pointer(at), count * page_size(), MADV_POPULATE_READ);
    std::fill_n(scratch_->state + first, count, PageState::kPlaced);
}

// Copies consecutive new pages into the segment, and maps it over those that were
// frozen meanwhile. The others keep their state: they are compared later.
int Merger::place_batch(int fd, std::uint32_t first, std::uint32_t count,
                        std::uint32_t segment_page) noexcept {
    const std::uint64_t at = address(first);
    const NoSignals guard;
    const bool held = freeze_and_look(at, count) == 0;
    const int ret =
        fill_segment(fd, segment_page * page_size(), {page(first), count * page_size()});
    if (!held)
        return ret;
    for (std::uint32_t i = 0; i < count && ret == 0;) {
        std::uint32_t run = 0;
        while (i + run < count && frozen(scratch_->pagemap[i + run]))
            ++run;
        if (run != 0) {
            place_run(fd, first + i, run, segment_page + i);
            const bool placed = scratch_->state[first + i] == PageState::kPlaced;
            std::fill_n(scratch_->mapped + i, run, placed);
        }
        i += std::max(run, 1U);
    }
    let_go(at, count);
    return ret;
}

// Fills a segment with all new pages, batch by batch.
int Merger::place(int fd, std::uint32_t hashed) noexcept {
    int ret = 0;
    for (std::uint32_t i = 0; i < hashed && ret == 0;) {
        const std::uint32_t first = scratch_->index[i];
        if (scratch_->state[first] != PageState::kNew) {
            ++i;
            continue;
        }
        const std::uint32_t segment_page = scratch_->places[i].page;
        const std::uint32_t room = room_in_batch(first);
        std::uint32_t count = 0;
        while (i < hashed && count < room && scratch_->index[i] == first + count &&
               scratch_->state[first + count] == PageState::kNew) {
            ++count;
            ++i;
        }
        ret = place_batch(fd, first, count, segment_page);
    }
    return ret;
}

// The segment will not be published: its pages become private ones again, and new.
// Where not even that works they stay as they are, which does the program no harm.
void Merger::take_back() noexcept {
    registered_ = false; // what was mapped since is not
    for (std::uint32_t i = 0; i < pages_;) {
        std::uint32_t run = 0;
        while (i + run < pages_ && run < kBatch && scratch_->state[i + run] == PageState::kPlaced)
            ++run;
        if (run != 0 && copy_over(address(i), run * page_size()) == 0)
            std::fill_n(scratch_->state + i, run, PageState::kNew);
        else
            for (std::uint32_t j = i; j < i + run; ++j)
                skip(j, UPM_SKIPPED_NOMEM);
        i += std::max(run, 1U);
    }
    registered_ = false; // nor are the copies
}

// Post: `segment` is published; or -errno, and no page is placed.
int Merger::make_and_publish(std::uint32_t hashed, std::uint32_t unique, Place &segment,
                             int &fd) noexcept {
    int ret = create_segment(unique * page_size());
    fd = ret;
    if (ret >= 0)
        ret = place(fd, hashed);
    if (ret == 0)
        ret = seal_segment(fd);
    const bool ready = ret == 0;
    if (ready)
        ret =
            connection().publish(fd, {scratch_->unique, unique}, segment.segment, scratch_->packet);
    if (ret == 0)
        return 0;
    take_back();
    if (fd >= 0)
        ::close(fd);
    const int released = ready ? 0 : connection().release();
    const unsigned reason = ready ? UPM_SKIPPED_LIMIT : UPM_SKIPPED_NOMEM;
    if (released != 0 || broken(ret))
        return released != 0 ? released : ret;
    if (error_ == 0)
        error_ = ret;
    for (std::uint32_t i = 0; i < hashed; ++i)
        if (scratch_->places[i].segment == kReserved &&
            scratch_->state[scratch_->index[i]] != PageState::kDone)
            skip(scratch_->index[i], reason);
    return ret;
}

// Publishes the pages that this client has reserved. 0 or -errno: the broker cannot
// be reached.
int Merger::insert(std::uint32_t hashed) noexcept {
    const std::uint32_t unique = number_unique(hashed);
    Place segment;
    int fd = -1;
    const int ret = make_and_publish(hashed, unique, segment, fd);
    if (ret != 0)
        return broken(ret) ? ret : 0;
    Open &open = adopt(segment.segment, unique, fd);
    for (std::uint32_t i = 0; i < hashed; ++i) {
        if (scratch_->places[i].segment != kReserved)
            continue;
        scratch_->places[i].segment = segment.segment;
        if (scratch_->state[scratch_->index[i]] != PageState::kPlaced)
            continue;
        ++counts_.inserted;
        ++open.mapped;
        finish(scratch_->index[i], 1);
    }
    return 0;
}

} // namespace upm::store
