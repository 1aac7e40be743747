// SPDX-License-Identifier: MIT
//
// A window: consecutive pages of one mapping that are merged together, and what is known
// of each of them. It is a value: it neither touches memory nor talks to anybody.
#ifndef UPM_STORE_WINDOW_HPP
#define UPM_STORE_WINDOW_HPP

#include "libupm/store/wire.hpp"

#include <upm/upm.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

// States from kMerged on are final: each page comes to one of them.
enum class PageState : std::uint8_t {
    kTodo,     // there and not shared
    kForked,   // the same, but another process has it too, by a fork: not to be published
    kZero,     // all zero
    kNew,      // hashed; to be put into a segment
    kKnown,    // hashed; its content is in a segment
    kPlaced,   // mapped from the segment that is being made
    kMerged,   // mapped from a segment that was there before
    kInserted, // mapped from a segment that this call has made
    kDropped,  // of zeros, and given back
    kAlready,  // was shared before
    kSkipped,  // left alone; the reason is kept beside the state
};

// Consecutive pages of a window, and where in a segment the same content should be.
struct Run {
    std::uint32_t first = 0; // page of the window
    std::uint32_t count = 0;
    Place place;
    bool successor = false; // only because the page before was found before that place
};

class Window {
  public:
    // Begins a new one of up to kMaxPages pages, all of which are to be done.
    void begin(std::uint64_t start, std::uint32_t pages) noexcept;
    // Sorts the pages from `first` on out by their entries of the page map. Those of a
    // segment (`segment`: the mapping is one) are shared until the program writes to them.
    void sort_out(std::uint32_t first, std::span<const std::uint64_t> entries,
                  bool segment) noexcept;

    [[nodiscard]] std::uint32_t pages() const noexcept { return pages_; }
    [[nodiscard]] std::uint64_t address(std::uint32_t index) const noexcept;
    [[nodiscard]] const std::byte *page(std::uint32_t index) const noexcept;
    [[nodiscard]] PageState state(std::uint32_t index) const noexcept;
    // The first page from `from` on in that state, or pages().
    [[nodiscard]] std::uint32_t find(PageState state, std::uint32_t from) const noexcept;
    // How many pages from `from` on, at most `limit`, are in that state.
    [[nodiscard]] std::uint32_t length(PageState state, std::uint32_t from,
                                       std::uint32_t limit) const noexcept;
    [[nodiscard]] std::uint32_t count(PageState state) const noexcept;

    // Returns true if a page may go from one state to the other.
    static bool may_become(PageState from, PageState to) noexcept;
    // The one transition: pages that may not become `to` stay what they are.
    void set(std::uint32_t first, std::uint32_t count, PageState to) noexcept;
    // The same to kSkipped, for a reason of UPM_SKIPPED_*.
    void skip(std::uint32_t first, std::uint32_t count, unsigned reason) noexcept;
    // The same because of -errno, from which the reason follows.
    void refuse(std::uint32_t first, std::uint32_t count, int error) noexcept;
    // Puts pages aside that are to be done, by their entries of the page map, if another
    // process maps them as well.
    void put_forked_aside(std::uint32_t first, std::span<const std::uint64_t> entries) noexcept;
    // Returns true if there are such pages, which are to be done now.
    bool take_forked_back() noexcept;
    // What was found out by hashes does not count any more.
    void forget_hashes() noexcept;

    // Keeps the first error that kept pages from being merged.
    void fail(int error) noexcept { error_ = error_ == 0 ? error : error_; }
    [[nodiscard]] int error() const noexcept { return error_; }
    // Adds up the pages whose state is final.
    void add_to(upm_counts &counts) const noexcept;

  private:
    std::uint64_t start_ = 0;
    std::uint32_t pages_ = 0;
    int error_ = 0;
    PageState states_[kMaxPages];
    std::uint8_t reasons_[kMaxPages]; // of those that are skipped
};

} // namespace upm::store

#endif // UPM_STORE_WINDOW_HPP
