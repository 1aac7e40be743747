// SPDX-License-Identifier: MIT
//
// Finding out where the content of pages is: by their hashes, which the broker is asked
// for, or as the successor of a page that was found. Programs load the same files in the
// same order, so the page after one that was found is looked for behind it.
#ifndef UPM_STORE_LOOKUP_HPP
#define UPM_STORE_LOOKUP_HPP

#include "libupm/store/client.hpp"
#include "libupm/store/open_segments.hpp"
#include "libupm/store/window.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

class Lookup {
  public:
    Lookup(Connection &connection, OpenSegments &segments) noexcept
        : connection_(connection), segments_(segments) {}

    // Hashes up to `limit` pages that are to be done, from `from` on, which are then the
    // hashed ones. Pages of zeros are only marked.
    void hash_pages(Window &window, std::uint32_t from, std::uint32_t limit) noexcept;
    [[nodiscard]] std::uint64_t hash_of(const std::byte *page) const noexcept;
    // Asks for the places of the hashed ones. 0 or -errno.
    int ask(bool reserve) noexcept;

    [[nodiscard]] std::uint32_t hashed() const noexcept { return hashed_; }
    // Of the i-th hashed page: which page of the window it is, its hash and place.
    [[nodiscard]] std::uint32_t index(std::uint32_t i) const noexcept { return index_[i]; }
    [[nodiscard]] std::uint64_t hash(std::uint32_t i) const noexcept { return hashes_[i]; }
    [[nodiscard]] const Place &place(std::uint32_t i) const noexcept { return places_[i]; }
    [[nodiscard]] bool reserved(std::uint32_t i) const noexcept;
    // Takes the broker's answer over into the window. Returns true if pages were reserved,
    // which this client is to publish then.
    bool take_answer(Window &window) const noexcept;
    void number(std::uint32_t i, std::uint32_t page) noexcept { places_[i].page = page; }
    // The reserved ones have been published as this segment.
    void published(std::uint32_t segment) noexcept;
    // Returns true if the i-th hashed page still waits to be merged.
    [[nodiscard]] bool waits(const Window &window, std::uint32_t i) const noexcept;
    // The longest run of such pages from the i-th on, which moves on behind it.
    [[nodiscard]] Run run(const Window &window, std::uint32_t &i) const noexcept;
    // Skips those that still wait: not what they were, or not what somebody claimed.
    void skip_rest(Window &window) const noexcept;

    [[nodiscard]] bool has_successor() const noexcept;
    void set_successor(const Place &place) noexcept { successor_ = place; }
    // Looks a few pages from `from` on up. 0 or -errno. Post: has_successor(), and `from`
    // is the page that should be there; or nothing is known of these.
    int sample(Window &window, std::uint32_t &from) noexcept;
    // The pages to be done from `from` on, as successors.
    [[nodiscard]] Run successors(const Window &window, std::uint32_t from) const noexcept;

    // Scratch memory of kMaxPacket bytes for requests.
    std::span<std::byte> packet() noexcept { return packet_; }

  private:
    Connection &connection_;
    OpenSegments &segments_;
    Place successor_; // of the page that was merged last
    std::uint32_t hashed_ = 0;
    std::uint64_t hashes_[kMaxPages];
    std::uint32_t index_[kMaxPages];
    Place places_[kMaxPages];
    std::byte packet_[kMaxPacket];
};

} // namespace upm::store

#endif // UPM_STORE_LOOKUP_HPP
