// SPDX-License-Identifier: MIT
//
// The memory that the hook looks after: large blocks, which it maps itself, one
// mapping each, and large anonymous mappings that the program made.
//
// Why own mappings: they are page-aligned, so that equal blocks have equal pages
// whatever lies around them; and no allocator ever hands out a part of one again.
// A backend may therefore map shared content over a block (backend store), and
// free() gives all of it back to the kernel. Blocks of 2 MiB and above begin at a
// multiple of that, so that content which is shared in huge pages can be mapped by
// huge pages in all processes.
//
// Nothing here takes a lock. Records are never freed, only used again, and each
// change is one atomic step; a fork in another thread, a signal in the middle of a
// call and a thread that dies leave a valid state behind.
#ifndef UPM_PRELOAD_BLOCKS_HPP
#define UPM_PRELOAD_BLOCKS_HPP

#include "preload/address_map.hpp"
#include "preload/history.hpp"
#include "preload/short_lived.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace upm::hook {

enum class State : std::uint32_t {
    kEmpty,     // the record describes nothing
    kLive,      // the program uses the block
    kBusy,      // the adviser works on it
    kBusyFreed, // the program freed it meanwhile: the adviser ends the record
    kHeld,      // some thread is freeing, moving or making it
    kCached,    // freed, and kept for the next allocation of that size
};

// The part of a block that a read has filled: its pages exist, and no read shares there any more.
// Calls at the same time may say so of what is not; such a read is plain.
class Filled {
  public:
    void clear() noexcept {
        from_.store(0, std::memory_order_relaxed);
        to_.store(0, std::memory_order_relaxed);
    }
    [[nodiscard]] bool holds(std::size_t offset, std::size_t len) const noexcept {
        return offset >= from_.load(std::memory_order_relaxed) &&
               offset + len <= to_.load(std::memory_order_relaxed);
    }
    // What neither touches it nor is larger is forgotten.
    void add(std::size_t offset, std::size_t len) noexcept {
        std::size_t from = from_.load(std::memory_order_relaxed);
        std::size_t to = to_.load(std::memory_order_relaxed);
        if (offset <= to && offset + len >= from) {
            from = offset < from ? offset : from;
            to = offset + len > to ? offset + len : to;
        } else if (len > to - from) {
            from = offset;
            to = offset + len;
        }
        from_.store(from, std::memory_order_relaxed);
        to_.store(to, std::memory_order_relaxed);
    }

  private:
    std::atomic<std::size_t> from_{0};
    std::atomic<std::size_t> to_{0};
};

struct Block {
    std::atomic<State> state{State::kEmpty};
    std::atomic<bool> advised{false};    // pages of it may be shared
    std::atomic<bool> hands_off{false};  // something special was done to it: not for the store
    std::atomic<bool> reshaped{false};   // its parts may differ in protection or other flags
    std::atomic<bool> unloadable{false}; // the same, in more than advice about huge pages
    bool own = false;                    // false: a mapping that the program made
    std::uint32_t next = 0;              // in the list of empty records
    std::uint32_t stack = 0;             // profile: who allocated it; 0: unknown
    std::atomic<char *> addr{nullptr};
    std::atomic<std::size_t> len{0};      // whole pages
    std::atomic<std::uint64_t> number{0}; // in order of allocation
    // These two stay with the memory while it is cached:
    Filled filled;
    std::atomic<bool> renewed{false}; // by a load; freed, it goes, so that the next one may share
    ShortLived::Life life;
    // The adviser's, and its alone while the state is kBusy:
    History history;
    std::size_t resume_at = 0; // where an interrupted pass goes on
};

// All records ever used, by index; a snapshot, records may come and go meanwhile.
std::uint32_t block_count() noexcept;
Block &block_at(std::uint32_t index) noexcept;

// A block of at least `size` bytes; nullptr if the hook cannot serve it, and the
// real allocator should. `zero`: the bytes are zero.
void *allocate_block(std::size_t size, std::size_t alignment, bool zero) noexcept;

// The own block that starts at `pointer`, nullptr if there is none.
Block *find_own(const void *pointer) noexcept;

void free_block(Block &block) noexcept;

// Changes the size without copying, moving the mapping if need be. nullptr:
// nothing changed, and the caller must copy.
void *resize_block(Block &block, std::size_t size) noexcept;

// Mappings that the program made, and ended or changed. Only one that begins at
// `addr` is forgotten: a record that outlives its mapping does no harm, since to
// advise what is not there any more fails, and to advise what is there instead is
// right (kmod, ksm; for the store, see munmap in hooks.cpp). `rest`: of a mapping that may show
// shared content, and is left as it is.
void record_mapping(void *addr, std::size_t len, bool rest = false) noexcept;
void forget_mapping(const void *addr) noexcept;

const Block *find_mapping(const void *addr) noexcept;

// What the next block will have as Block::number.
std::uint64_t next_block_number() noexcept;

const AddressMap<Block> &block_map() noexcept;

// Calls `visit` for each block, or mapping of the program, that now intersects
// [addr, addr + len), in the order of their addresses.
template <class Visit>
void for_each_block(const void *addr, std::size_t len, Visit visit) noexcept {
    const auto *const start = static_cast<const char *>(addr);
    Block *const first = block_map().before(addr);
    if (first != nullptr && len != 0) {
        const char *const at = first->addr;
        if (at <= start && static_cast<std::size_t>(start - at) < first->len)
            visit(*first);
    }
    block_map().for_each_start(addr, len, visit);
}

inline bool any_block(const void *addr, std::size_t len) noexcept {
    bool found = false;
    for_each_block(addr, len, [&](Block & /*unused*/) { found = true; });
    return found;
}

// The adviser takes a live block and gives it back. false: it is not live (any
// more). It may be freed, and unmapped, before it is given back.
bool take_block(Block &block) noexcept;
void release_block(Block &block) noexcept;

// Unmaps what free_block has kept for later. Returns the bytes.
std::size_t drop_cache() noexcept;

// After a fork, in the child: the adviser is gone, and so is what it held.
void blocks_after_fork_child() noexcept;

struct BlockTotals {
    std::atomic<std::uint64_t> blocks{0}; // ever
    std::atomic<std::uint64_t> bytes{0};
    std::atomic<std::uint64_t> live_blocks{0};
    std::atomic<std::uint64_t> live_bytes{0};
};
const BlockTotals &block_totals() noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_BLOCKS_HPP
