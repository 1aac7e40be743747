// SPDX-License-Identifier: MIT
#include "libupm/store/lookup.hpp"

#include "libupm/base/system.hpp"
#include "libupm/store/hash.hpp"

#include <algorithm>
#include <unistd.h>

namespace upm::store {

namespace {

// Pages that are hashed to find out whether anything of a window is known.
constexpr std::uint32_t kSample = 16;

} // namespace

std::uint64_t Lookup::hash_of(const std::byte *page) const noexcept {
    return hash_bytes(page, page_size(), connection_.seed());
}

void Lookup::hash_pages(Window &window, std::uint32_t from, std::uint32_t limit) noexcept {
    hashed_ = 0;
    for (std::uint32_t i = from; i < window.pages() && hashed_ < limit; ++i) {
        if (window.state(i) != PageState::kTodo)
            continue;
        if (is_zero(window.page(i))) {
            window.set(i, 1, PageState::kZero);
            continue;
        }
        hashes_[hashed_] = hash_of(window.page(i));
        index_[hashed_] = i;
        ++hashed_;
    }
}

// With the answer comes the segment that is likely to be needed first.
int Lookup::ask(bool reserve) noexcept {
    const std::span places(places_, hashed_);
    Connection::Attached attached;
    const int ret = connection_.lookup({hashes_, hashed_}, reserve, places, packet_, &attached);
    if (attached.fd < 0)
        return ret;
    const auto first = std::find_if(places.begin(), places.end(),
                                    [](const Place &place) { return is_segment(place.segment); });
    if (first != places.end() && segments_.find(first->segment) == nullptr)
        segments_.adopt(first->segment, attached.pages, attached.fd);
    else
        ::close(attached.fd);
    return ret;
}

bool Lookup::reserved(std::uint32_t i) const noexcept {
    return places_[i].segment == kReserved;
}

bool Lookup::take_answer(Window &window) const noexcept {
    bool any = false;
    for (std::uint32_t i = 0; i < hashed_; ++i) {
        if (places_[i].segment == kUnknown) // by pages that are not to be published
            window.skip(index_[i], 1, UPM_SKIPPED_BUSY);
        else if (places_[i].segment == kRefused)
            window.skip(index_[i], 1, UPM_SKIPPED_LIMIT);
        else
            window.set(index_[i], 1, reserved(i) ? PageState::kNew : PageState::kKnown);
        any = any || reserved(i);
    }
    return any;
}

void Lookup::published(std::uint32_t segment) noexcept {
    for (std::uint32_t i = 0; i < hashed_; ++i)
        if (reserved(i))
            places_[i].segment = segment;
}

bool Lookup::waits(const Window &window, std::uint32_t i) const noexcept {
    const PageState state = window.state(index_[i]);
    return state == PageState::kNew || state == PageState::kKnown;
}

Run Lookup::run(const Window &window, std::uint32_t &i) const noexcept {
    Run run{.first = index_[i], .count = 0, .place = places_[i]};
    const auto follows = [&](std::uint32_t next) {
        return next < hashed_ && waits(window, next) && index_[next] == run.first + run.count &&
               places_[next] ==
                   Place{.segment = run.place.segment, .page = run.place.page + run.count};
    };
    do {
        ++i;
        ++run.count;
    } while (follows(i));
    return run;
}

void Lookup::skip_rest(Window &window) const noexcept {
    for (std::uint32_t i = 0; i < hashed_; ++i) {
        if (!waits(window, i))
            continue;
        const bool same = hash_of(window.page(index_[i])) == hashes_[i];
        window.skip(index_[i], 1,
                    same && places_[i].segment != kUnknown ? UPM_SKIPPED_COLLISION
                                                           : UPM_SKIPPED_BUSY);
    }
}

bool Lookup::has_successor() const noexcept {
    return successor_.segment != kUnknown;
}

int Lookup::sample(Window &window, std::uint32_t &from) noexcept {
    hash_pages(window, from, kSample);
    if (hashed_ == 0)
        return 0;
    const int ret = ask(false);
    for (std::uint32_t i = 0; i < hashed_ && ret == 0; ++i) {
        if (is_segment(places_[i].segment)) {
            successor_ = places_[i];
            from = index_[i];
            break;
        }
    }
    return ret;
}

Run Lookup::successors(const Window &window, std::uint32_t from) const noexcept {
    return {.first = from,
            .count = window.length(PageState::kTodo, from, window.pages()),
            .place = successor_,
            .successor = true};
}

} // namespace upm::store
