// SPDX-License-Identifier: MIT
#include "libupm/store/sample.hpp"

#include "libupm/base/plain_read.hpp"
#include "libupm/base/system.hpp"
#include "libupm/store/hash.hpp"

#include <algorithm>

namespace upm::store {

bool Sample::add(const std::byte *page, std::uint32_t number, std::uint64_t seed) noexcept {
    if (is_zero(page))
        return false;
    std::fill_n(hashes_ + std::size_t{count_} * kCandidates, kCandidates,
                hash_bytes(page, page_size(), seed));
    pages_[count_++] = number;
    return true;
}

// The spread ones come first: they tell more, and the broker sends the segment of the
// first hash that it knows along. Those near the beginning lie side by side, and so they are read
// together: a read of a page costs as much for the call as for the page.
bool Sample::take(int fd, std::uint64_t offset, std::size_t size, std::byte *room,
                  std::uint64_t seed) noexcept {
    constexpr std::uint32_t kSpread = kMost / 2;
    count_ = 0;
    const auto pages = static_cast<std::uint32_t>(size / page_size());
    const auto near = static_cast<std::uint32_t>(std::min(size, kNear) / page_size());
    for (std::uint32_t i = 0; i < kSpread && near < pages; ++i) {
        const std::uint32_t page = near + (pages - near - 1) * (i + 1) / kSpread;
        if (plain_read(fd, offset + page * page_size(), room, page_size()) ==
            static_cast<std::int64_t>(page_size()))
            (void)add(room, page, seed);
    }
    const auto together = static_cast<std::uint32_t>(std::max(kTogether / page_size(), 1UL));
    begun_ = 0;
    for (std::uint32_t first = 0; first < near && count_ < kMost; first += together) {
        const std::size_t wanted = std::min(near - first, together) * page_size();
        const std::int64_t got = plain_read(fd, offset + first * page_size(), room, wanted);
        const std::size_t whole =
            static_cast<std::size_t>(std::max<std::int64_t>(got, 0)) / page_size();
        begun_ = first == 0 ? whole * page_size() : 0;
        for (std::uint32_t i = 0; i < whole && count_ < kMost; ++i)
            (void)add(room + i * page_size(), first + i, seed);
    }
    likeness_ = hash_bytes(hashes_, hashes().size_bytes(), size) | 1U;
    return count_ != 0;
}

Sample::Candidate Sample::choose(std::span<const Place> places,
                                 std::uint32_t except) const noexcept {
    // Where page 0 would be; what lies in front of the first page of a segment is not in it.
    const auto first_of = [&](std::size_t i) {
        const std::uint32_t page = pages_[i / kCandidates];
        const Place &place = places[i];
        const bool fits =
            is_segment(place.segment) && place.segment != except && place.page >= page;
        return fits ? Place{.segment = place.segment, .page = place.page - page} : Place{};
    };
    Candidate best;
    for (std::size_t i = 0; i < places.size(); ++i) {
        const Place first = first_of(i);
        std::uint32_t votes = 0;
        for (std::uint32_t page = 0; page < count_ && first.segment != kUnknown; ++page) {
            for (std::size_t each = 0; each < kCandidates; ++each) {
                if (first_of(std::size_t{page} * kCandidates + each) == first) {
                    ++votes;
                    break;
                }
            }
        }
        if (votes > best.votes)
            best = {.first = first, .votes = votes};
    }
    return best;
}

bool Sample::convinces(const Candidate &candidate, std::uint32_t pages) const noexcept {
    const auto within =
        static_cast<std::uint32_t>(std::count_if(pages_, pages_ + count_, [&](std::uint32_t page) {
            return candidate.first.page + page < pages;
        }));
    return candidate.votes != 0 && candidate.votes * 4 >= within * 3;
}

} // namespace upm::store
