// SPDX-License-Identifier: MIT
//
// The work of one advise or unmerge with the backend store: which pages are where
// in which segment, and mapping them in place of the program's own. docs/store.md
// describes the method and argues why no write is lost.
#ifndef UPM_STORE_MERGER_HPP
#define UPM_STORE_MERGER_HPP

#include "libupm/mm/aligned_range.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/client.hpp"
#include "libupm/store/freezer.hpp"

#include <upm/upm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace upm::store {

class SegmentWriter;

// How many runs of pages this process has mapped. Each costs it up to two
// mappings, of which the kernel allows vm.max_map_count.
struct RunBudget {
    static constexpr std::uint32_t kFree = 2048; // up to here single pages are fine
    static constexpr std::uint32_t kMinRun = 16; // pages of a run above that
    std::atomic<std::uint32_t> used{0};
    std::uint32_t limit = 16'000; // a quarter of vm.max_map_count
};

// What is known of one page of a window.
enum class PageState : std::uint8_t {
    kTodo,   // present and not shared
    kNew,    // hashed; to be inserted
    kKnown,  // hashed; its content is in a segment
    kPlaced, // mapped from the segment that is being made
    kZero,   // all zero
    kDone,   // counted
};

class Merger {
  public:
    struct Tools {
        const SocketPath &path;
        ConnectionPool &pool;
        RunBudget &budget;
        FreezeMode mode;
        Gate *gate = nullptr; // see Call::gate
    };
    Merger(const Tools &tools, upm_counts &counts) noexcept;
    Merger(const Merger &) = delete;
    Merger &operator=(const Merger &) = delete;
    ~Merger();

    // Gets working memory. 0 or -errno. Before all others.
    int begin() noexcept;
    // Gets a connection. 0 or -errno. Before advise().
    int connect(const DomainKey &domain) noexcept;
    // From now on the program's memory may be touched, until a call returns -ECANCELED:
    // from then on nothing does. 0 or -ECANCELED. After connect(), before advise().
    int enter() noexcept;
    // Merges a part of one mapping, private and readable. 0 or -errno; either way
    // what was done is counted.
    int advise(const Vma &part) noexcept;
    // Gives a part of a mapping of a segment private memory again.
    int unmerge(const Vma &part) noexcept;
    // The first error that kept single pages from being merged, or 0.
    [[nodiscard]] int error() const noexcept { return error_; }

  private:
    struct Scratch;
    struct Open { // a segment whose descriptor this call has
        std::uint32_t segment = 0;
        std::uint32_t pages = 0;
        int fd = -1;
        std::int64_t mapped = 0; // pages, not reported yet
    };
    // Consecutive pages of the window and where their contents should be.
    struct Group {
        std::uint32_t first = 0; // page of the window
        std::uint32_t count = 0;
        Place place;
        bool guess = false; // only because the page before was there
    };
    struct Batch; // of a group, while it is frozen

    int window(std::uint64_t start, std::uint32_t pages) noexcept;
    int merge_window() noexcept;
    void forget_states() noexcept;
    int classify() noexcept;

    int follow_guesses() noexcept;
    int sample(std::uint32_t &from) noexcept;
    int find_rest() noexcept;
    int look_up(std::uint32_t hashed, bool reserve) noexcept;
    std::uint32_t hash_pages(std::uint32_t from, std::uint32_t limit) noexcept;

    int insert(std::uint32_t hashed) noexcept;
    std::uint32_t number_pages(std::uint32_t hashed) noexcept;
    template <class Visit>
    void for_each_in_blocks(std::uint32_t hashed, Visit visit) noexcept;
    std::uint32_t number_blocks(std::uint32_t hashed) noexcept;
    std::uint32_t number_of(std::uint64_t hash, std::uint32_t &unique) noexcept;
    void forget_numbers() noexcept;
    void find_blocks(std::uint32_t hashed) noexcept;
    [[nodiscard]] bool in_block(std::uint32_t index) const noexcept;
    void give_padding_back(std::uint32_t hashed) noexcept;
    [[nodiscard]] std::uint64_t hash_of(const std::byte *page) noexcept;
    int make_and_publish(std::uint32_t hashed, std::uint32_t &unique, Place &segment,
                         int &fd) noexcept;
    int place(SegmentWriter &writer, std::uint32_t hashed, std::uint32_t &complete) noexcept;
    void cut_short(std::uint32_t hashed, std::uint32_t complete, int error) noexcept;
    int place_batch(SegmentWriter &writer, std::uint32_t first, std::uint32_t count,
                    std::uint32_t segment_page) noexcept;
    void place_run(int fd, std::uint32_t first, std::uint32_t count,
                   std::uint32_t segment_page) noexcept;
    void take_back() noexcept;
    int settle_hashed(std::uint32_t hashed) noexcept;

    int settle(const Group &group, std::uint32_t &stopped) noexcept;
    int settle_batch(Batch &batch) noexcept;
    int map_view(Batch &batch) noexcept;
    void compare(Batch &batch) noexcept;
    void flush(Batch &batch) noexcept;
    bool map_file(std::uint64_t at, std::uint32_t pages, int fd, std::uint32_t page) noexcept;
    [[nodiscard]] std::uint32_t room_in_batch(std::uint32_t index) const noexcept;
    bool map_over(std::uint64_t at, std::byte *from, std::uint32_t pages, const Batch &batch,
                  std::uint32_t page) noexcept;
    void settle_zeros() noexcept;
    void settle_zeros(std::uint32_t first, std::uint32_t count) noexcept;
    bool drop_zeros(std::uint64_t at, std::uint32_t count) noexcept;

    int freeze(std::uint64_t at, std::uint32_t pages) noexcept;
    int freeze_and_look(std::uint64_t at, std::uint32_t pages) noexcept;
    void let_go(std::uint64_t at, std::uint32_t pages) noexcept;
    void skip_group(std::uint32_t first, std::uint32_t count, int error) noexcept;
    int breathe() noexcept;
    [[nodiscard]] bool frozen(std::uint64_t entry) const noexcept;
    void skip(std::uint32_t index, unsigned reason) noexcept;
    void finish(std::uint32_t first, std::uint32_t count) noexcept;
    bool afford(std::uint32_t pages) noexcept;
    int read_pagemap(std::uint64_t at, std::uint32_t pages, std::uint64_t *entries) noexcept;
    int unmerge_batch(std::uint64_t at, std::uint32_t pages) noexcept;
    int copy_over(std::uint64_t at, std::size_t size) noexcept;

    Open *find_open(std::uint32_t segment) noexcept;
    Open *open_segment(std::uint32_t segment, int &error) noexcept;
    Open &adopt(std::uint32_t segment, std::uint32_t pages, int fd) noexcept;
    void close_segment(Open &open, bool tell) noexcept;

    [[nodiscard]] std::uint64_t address(std::uint32_t index) const noexcept;
    [[nodiscard]] const std::byte *page(std::uint32_t index) const noexcept;
    [[nodiscard]] Connection &connection() noexcept { return tools_.pool.at(slot_); }

    static constexpr std::size_t kOpen = 8;

    Tools tools_;
    upm_counts &counts_;
    Freezer freezer_;
    Scratch *scratch_ = nullptr;
    std::size_t slot_ = ConnectionPool::kSlots;
    int pagemap_ = -1;
    int error_ = 0; // the first one that hit single pages only
    Vma part_;
    bool registered_ = false;   // part_, with freezer_
    bool outside_ = false;      // for good: the memory is not ours to touch any more
    std::uint64_t window_ = 0;  // its start
    std::uint32_t pages_ = 0;   // its size
    Place guess_;               // what may follow the page that was merged last
    AlignedRange view_;         // of the segment, while a batch is compared with it
    bool whole_blocks_ = true;  // may be padded to become huge pages
    std::uint32_t blocks_ = 0;  // of the window, that get one
    std::uint32_t padding_ = 0; // pages in them that take memory only for that
    Open open_[kOpen];
    std::size_t next_open_ = 0;
};

} // namespace upm::store

#endif // UPM_STORE_MERGER_HPP
