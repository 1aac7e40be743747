// SPDX-License-Identifier: MIT
//
// The part of the merger that publishes new content. Pages are copied into a segment
// while they are frozen, and mapped from there at once: copy and original cannot
// differ, so nobody has to compare them. Only then is the segment sealed and handed
// to the broker. If that fails, the pages become private memory again.
#include "libupm/store/merger.hpp"

#include "libupm/store/scratch.hpp"
#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {

namespace {

// Of the 512 pages of a block, how many must need memory of their own so that it gets a
// huge page. The others (of zeros, or known already) take some then that they need not:
// at most a sixteenth more, once on the machine. docs/store.md has the measurement.
constexpr std::uint32_t kDense = kBatch - kBatch / 16;

} // namespace

// The number of a hash among those that are numbered, which is what it gets now if it
// has none.
std::uint32_t Merger::number_of(std::uint64_t hash, std::uint32_t &unique) noexcept {
    constexpr std::uint32_t kMask = Scratch::kTable - 1;
    auto at = static_cast<std::uint32_t>(hash) & kMask;
    while (scratch_->table[at] != 0 && scratch_->unique[scratch_->table[at] - 1U] != hash)
        at = (at + 1) & kMask;
    if (scratch_->table[at] == 0) {
        scratch_->unique[unique] = hash;
        scratch_->table[at] = static_cast<std::uint16_t>(++unique);
    }
    return scratch_->table[at] - 1U;
}

void Merger::forget_numbers() noexcept {
    std::memset(scratch_->table, 0, sizeof(scratch_->table));
}

// Finds the blocks of the window that get a huge page: their pages are all there, and
// nearly all of them are new, each with a content of its own.
void Merger::find_blocks(std::uint32_t hashed) noexcept {
    blocks_ = 0;
    if (!whole_blocks_ || !huge_segments())
        return;
    forget_numbers();
    std::uint32_t unique = 0;
    std::uint32_t i = 0;
    for (std::uint32_t first = room_in_batch(0) % kBatch; first + kBatch <= pages_;
         first += kBatch) {
        while (i < hashed && scratch_->index[i] < first)
            ++i;
        const std::uint32_t before = unique;
        for (; i < hashed && scratch_->index[i] < first + kBatch; ++i)
            if (scratch_->places[i].segment == kReserved)
                (void)number_of(scratch_->hashes[i], unique);
        const auto *const states = scratch_->state + first;
        const bool there = std::all_of(states, states + kBatch, [](PageState state) {
            return state == PageState::kNew || state == PageState::kKnown ||
                   state == PageState::kZero;
        });
        if (there && unique - before >= kDense)
            scratch_->blocks[blocks_++] = first;
    }
}

bool Merger::in_block(std::uint32_t index) const noexcept {
    const auto *const begin = scratch_->blocks;
    return std::any_of(begin, begin + blocks_, [&](std::uint32_t first) {
        return index >= first && index < first + kBatch;
    });
}

// Calls visit(index, i) for each page of the blocks, in order: i is its number among the
// hashed ones, or `hashed` if it is a page of zeros, which was not.
template <class Visit>
void Merger::for_each_in_blocks(std::uint32_t hashed, Visit visit) noexcept {
    std::uint32_t i = 0;
    for (std::uint32_t block = 0; block < blocks_; ++block) {
        const std::uint32_t first = scratch_->blocks[block];
        while (i < hashed && scratch_->index[i] < first)
            ++i;
        for (std::uint32_t index = first; index < first + kBatch; ++index) {
            const bool known_hash = i < hashed && scratch_->index[i] == index;
            visit(index, known_hash ? i++ : hashed);
        }
    }
}

// Blocks come first in the segment, whole and in order: so each begins at a huge page.
// Post: all of their pages are new, and those of them that are no news are `padding_`.
std::uint32_t Merger::number_blocks(std::uint32_t hashed) noexcept {
    std::uint32_t unique = 0;
    padding_ = 0;
    for_each_in_blocks(hashed, [&](std::uint32_t index, std::uint32_t i) {
        const std::uint64_t hash = i < hashed ? scratch_->hashes[i] : hash_of(page(index));
        if (i < hashed && scratch_->places[i].segment == kReserved)
            scratch_->places[i].page = unique;
        else
            ++padding_;
        const std::uint32_t place = unique;
        if (number_of(hash, unique) != place) { // a second one of the kind
            scratch_->unique[place] = hash;
            unique = place + 1;
        }
        scratch_->state[index] = PageState::kNew;
    });
    return unique;
}

// What is in a block without being news, and was not mapped from there, is again what
// it was.
void Merger::give_padding_back(std::uint32_t hashed) noexcept {
    for_each_in_blocks(hashed, [&](std::uint32_t index, std::uint32_t i) {
        PageState &state = scratch_->state[index];
        if (state == PageState::kNew && i == hashed)
            state = PageState::kZero;
        else if (state == PageState::kNew && scratch_->places[i].segment != kReserved)
            state = PageState::kKnown;
    });
}

// Gives each page that was reserved its number in the segment to be: equal ones
// the same, as far as the mappings suffice that this will take.
std::uint32_t Merger::number_pages(std::uint32_t hashed) noexcept {
    find_blocks(hashed);
    forget_numbers();
    std::uint32_t unique = number_blocks(hashed);
    const bool fold = tools_.budget.used.load() < RunBudget::kFree;
    for (std::uint32_t i = 0; i < hashed; ++i) {
        if (scratch_->places[i].segment != kReserved || in_block(scratch_->index[i]))
            continue;
        const std::uint64_t hash = scratch_->hashes[i];
        const std::uint32_t next = unique;
        if (!fold)
            scratch_->unique[unique++] = hash;
        scratch_->places[i].page = fold ? number_of(hash, unique) : next;
        if (scratch_->places[i].page != next)
            scratch_->state[scratch_->index[i]] = PageState::kKnown;
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
int Merger::place_batch(SegmentWriter &writer, std::uint32_t first, std::uint32_t count,
                        std::uint32_t segment_page) noexcept {
    const std::uint64_t at = address(first);
    int ret = writer.reserve(segment_page * page_size(), count * page_size());
    if (ret != 0)
        return ret;
    const NoSignals guard;
    const bool held = freeze_and_look(at, count) == 0;
    ret = writer.fill(segment_page * page_size(), {page(first), count * page_size()});
    if (!held)
        return ret;
    for (std::uint32_t i = 0; i < count && ret == 0;) {
        std::uint32_t run = 0;
        while (i + run < count && frozen(scratch_->pagemap[i + run]))
            ++run;
        if (run != 0) {
            place_run(writer.fd(), first + i, run, segment_page + i);
            const bool placed = scratch_->state[first + i] == PageState::kPlaced;
            std::fill_n(scratch_->mapped + i, run, placed);
        }
        i += std::max(run, 1U);
    }
    let_go(at, count);
    return ret;
}

// Fills a segment with all new pages, batch by batch, each of which frees about as much
// memory as it takes. `complete`: so many pages of the segment are.
int Merger::place(SegmentWriter &writer, std::uint32_t hashed, std::uint32_t &complete) noexcept {
    const auto batch = [&](std::uint32_t first, std::uint32_t count) {
        int ret = breathe();
        if (ret == 0)
            ret = place_batch(writer, first, count, complete);
        complete += ret == 0 ? count : 0;
        return ret;
    };
    int ret = 0;
    for (std::uint32_t block = 0; block < blocks_ && ret == 0; ++block)
        ret = batch(scratch_->blocks[block], kBatch);
    for (std::uint32_t i = 0; i < hashed && ret == 0;) {
        const std::uint32_t first = scratch_->index[i];
        if (scratch_->state[first] != PageState::kNew || in_block(first)) {
            ++i;
            continue;
        }
        const std::uint32_t room = room_in_batch(first);
        std::uint32_t count = 0;
        while (i < hashed && count < room && scratch_->index[i] == first + count &&
               scratch_->state[first + count] == PageState::kNew) {
            ++count;
            ++i;
        }
        ret = batch(first, count);
    }
    return ret;
}

// There was no room for more than the first pages of the segment: what is in them is
// published, and the rest is left alone.
void Merger::cut_short(std::uint32_t hashed, std::uint32_t complete, int error) noexcept {
    if (error_ == 0)
        error_ = error;
    for (std::uint32_t i = 0; i < hashed; ++i)
        if (scratch_->places[i].segment == kReserved && scratch_->places[i].page >= complete)
            skip(scratch_->index[i], UPM_SKIPPED_NOMEM);
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

// Post: `segment` is published; or -errno, and no page is placed. kAgain: nothing is
// skipped either, and it is to be tried once more.
int Merger::make_and_publish(std::uint32_t hashed, std::uint32_t &unique, Place &segment,
                             int &fd) noexcept {
    SegmentWriter writer;
    std::uint32_t complete = 0;
    int ret = writer.create(unique * page_size(), blocks_);
    if (ret == 0)
        ret = place(writer, hashed, complete);
    if (ret != 0 && ret != -ECANCELED && complete != 0 && writer.cut(complete * page_size()) == 0) {
        cut_short(hashed, complete, ret);
        unique = complete;
        ret = 0;
    }
    if (ret == 0)
        ret = writer.seal();
    const bool ready = ret == 0;
    if (ready)
        ret = connection().publish(writer.fd(), {scratch_->unique, unique}, segment.segment,
                                   scratch_->packet);
    if (ret == 0) {
        fd = writer.release();
        return 0;
    }
    if (ret == -ECANCELED)
        return ret; // what was placed stays so, which does the program no harm
    take_back();
    give_padding_back(hashed);
    const int released = ready ? 0 : connection().release();
    const unsigned reason = ready ? UPM_SKIPPED_LIMIT : UPM_SKIPPED_NOMEM;
    if (released != 0 || broken(ret))
        return released != 0 ? released : ret;
    if (ready && padding_ != 0 && ret == -EDQUOT) {
        whole_blocks_ = false; // the quota has room for what is new, but for nothing else
        return kAgain;
    }
    if (error_ == 0)
        error_ = ret;
    for (std::uint32_t i = 0; i < hashed; ++i)
        if (scratch_->places[i].segment == kReserved &&
            scratch_->state[scratch_->index[i]] != PageState::kDone)
            skip(scratch_->index[i], reason);
    return ret;
}

// Publishes the pages that this client has reserved. 0 or -errno: the broker cannot
// be reached; kAgain: they are to be looked up again.
int Merger::insert(std::uint32_t hashed) noexcept {
    std::uint32_t unique = number_pages(hashed);
    Place segment;
    int fd = -1;
    const int ret = make_and_publish(hashed, unique, segment, fd);
    if (ret != 0)
        return broken(ret) || ret == kAgain || ret == -ECANCELED ? ret : 0;
    Open &open = adopt(segment.segment, unique, fd);
    give_padding_back(hashed);
    for (std::uint32_t i = 0; i < hashed; ++i)
        if (scratch_->places[i].segment == kReserved)
            scratch_->places[i].segment = segment.segment;
    for (std::uint32_t index = 0; index < pages_; ++index) {
        if (scratch_->state[index] != PageState::kPlaced)
            continue;
        ++counts_.inserted;
        ++open.mapped;
        finish(index, 1);
    }
    return 0;
}

} // namespace upm::store
