// SPDX-License-Identifier: MIT
#include "libupm/store/plan.hpp"

#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cstring>

namespace upm::store {

namespace {

// Of the 512 pages of a huge run, how many must need memory of their own. The others (of
// zeros, or known already) take some then that they need not: at most a sixteenth more,
// once on the machine. docs/store.md has the measurement.
constexpr std::uint32_t kDense = kBatch - kBatch / 16;

} // namespace

void Plan::make(Window &window, Lookup &lookup, const Wishes &wishes) noexcept {
    huge_runs_ = 0;
    padding_ = 0;
    if (wishes.huge && huge_segments())
        find_huge_runs(window, lookup);
    forget_numbers();
    number_huge_runs(window, lookup);
    number_rest(window, lookup, wishes.fold);
}

void Plan::forget_numbers() noexcept {
    pages_ = 0;
    std::memset(table_, 0, sizeof(table_));
}

// The number of a hash among those that are numbered, which it gets now if it has none.
std::uint32_t Plan::number_of(std::uint64_t hash) noexcept {
    constexpr std::uint32_t kMask = kTable - 1;
    auto at = static_cast<std::uint32_t>(hash) & kMask;
    while (table_[at] != 0 && hashes_[table_[at] - 1U] != hash)
        at = (at + 1) & kMask;
    if (table_[at] == 0) {
        hashes_[pages_] = hash;
        table_[at] = static_cast<std::uint16_t>(++pages_);
    }
    return table_[at] - 1U;
}

// Pages of a huge run are all there, and nearly all of them are new, each with a content
// of its own.
void Plan::find_huge_runs(const Window &window, const Lookup &lookup) noexcept {
    forget_numbers();
    const auto there = [&](std::uint32_t first) {
        for (std::uint32_t index = first; index < first + kBatch; ++index) {
            const PageState state = window.state(index);
            if (state != PageState::kNew && state != PageState::kKnown && state != PageState::kZero)
                return false;
        }
        return true;
    };
    std::uint32_t i = 0;
    for (std::uint32_t first = room_in_batch(window.address(0)) % kBatch;
         first + kBatch <= window.pages(); first += kBatch) {
        while (i < lookup.hashed() && lookup.index(i) < first)
            ++i;
        const std::uint32_t before = pages_;
        for (; i < lookup.hashed() && lookup.index(i) < first + kBatch; ++i)
            if (lookup.reserved(i))
                (void)number_of(lookup.hash(i));
        if (there(first) && pages_ - before >= kDense)
            huge_[huge_runs_++] = first;
    }
}

bool Plan::in_huge_run(std::uint32_t index) const noexcept {
    return std::any_of(huge_, huge_ + huge_runs_, [&](std::uint32_t first) {
        return index >= first && index < first + kBatch;
    });
}

// Calls visit(index, i) for each page of the huge runs, in order: i is its number among
// the hashed ones, or their count if it is a page of zeros, which was not hashed.
template <class Visit>
void Plan::for_each_in_huge_runs(const Lookup &lookup, Visit visit) const noexcept {
    std::uint32_t i = 0;
    for (const std::uint32_t first : huge_runs()) {
        while (i < lookup.hashed() && lookup.index(i) < first)
            ++i;
        for (std::uint32_t index = first; index < first + kBatch; ++index) {
            const bool hashed = i < lookup.hashed() && lookup.index(i) == index;
            visit(index, hashed ? i++ : lookup.hashed());
        }
    }
}

// Huge runs come first in the segment, whole and in order: so each begins at a huge page.
void Plan::number_huge_runs(Window &window, Lookup &lookup) noexcept {
    for_each_in_huge_runs(lookup, [&](std::uint32_t index, std::uint32_t i) {
        const bool hashed = i < lookup.hashed();
        const std::uint64_t hash = hashed ? lookup.hash(i) : lookup.hash_of(window.page(index));
        const std::uint32_t place = pages_;
        if (hashed && lookup.reserved(i))
            lookup.number(i, place);
        else
            ++padding_;
        if (number_of(hash) != place) { // a second one of the kind
            hashes_[place] = hash;
            pages_ = place + 1;
        }
        window.set(index, 1, PageState::kNew);
    });
}

// Equal pages get the same number, as far as the mappings suffice that this will take.
void Plan::number_rest(Window &window, Lookup &lookup, bool fold) noexcept {
    for (std::uint32_t i = 0; i < lookup.hashed(); ++i) {
        if (!lookup.reserved(i) || in_huge_run(lookup.index(i)))
            continue;
        const std::uint32_t next = pages_;
        if (!fold)
            hashes_[pages_++] = lookup.hash(i);
        lookup.number(i, fold ? number_of(lookup.hash(i)) : next);
        if (lookup.place(i).page != next)
            window.set(lookup.index(i), 1, PageState::kKnown);
    }
}

void Plan::give_padding_back(Window &window, const Lookup &lookup) const noexcept {
    for_each_in_huge_runs(lookup, [&](std::uint32_t index, std::uint32_t i) {
        if (window.state(index) != PageState::kNew)
            return;
        if (i == lookup.hashed())
            window.set(index, 1, PageState::kZero);
        else if (!lookup.reserved(i))
            window.set(index, 1, PageState::kKnown);
    });
}

} // namespace upm::store
