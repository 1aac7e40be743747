// SPDX-License-Identifier: MIT
#include "preload/blocks.hpp"

#include "preload/address_map.hpp"
#include "preload/adviser.hpp"
#include "preload/changes.hpp"
#include "preload/page.hpp"
#include "preload/pages.hpp"
#include "preload/real.hpp"
#include "preload/sandbox.hpp"
#include "preload/stacks.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <sys/mman.h>
#include <sys/resource.h>

namespace upm::hook {

namespace {

// Above this many blocks at once the real allocator serves: a process may have
// 65530 mappings (vm.max_map_count), and the rest is the program's.
constexpr std::uint32_t kMaxBlocks = 16384;

constinit std::array<Block, kMaxBlocks> records;
constinit std::atomic<std::uint32_t> used_records{0};
// Index of the first empty record + 1, and above it a count of changes, so that a
// list that changed and changed back is not taken for the same one.
constinit std::atomic<std::uint64_t> empty_list{0};
constinit AddressMap<Block> by_address;
constinit std::atomic<std::uint64_t> next_number{1};
constinit BlockTotals totals;

// --- records ---

Block *new_record() noexcept {
    std::uint64_t head = empty_list.load();
    while ((head & UINT32_MAX) != 0) {
        Block &block = records[(head & UINT32_MAX) - 1];
        const std::uint64_t rest = (head >> 32) + 1;
        if (empty_list.compare_exchange_weak(head, rest << 32 | block.next)) {
            block.state = State::kHeld;
            block.filled.clear();
            block.renewed = false;
            block.life.begin();
            return &block;
        }
    }
    std::uint32_t index = used_records.load();
    while (index < kMaxBlocks)
        if (used_records.compare_exchange_weak(index, index + 1)) {
            records[index].state = State::kHeld;
            return &records[index];
        }
    return nullptr;
}

// Pre: nobody else can hold it: kHeld by this thread.
void end_record(Block &block) noexcept {
    block.state = State::kEmpty;
    const auto own_index = static_cast<std::uint64_t>(&block - records.data()) + 1;
    std::uint64_t head = empty_list.load();
    do
        block.next = static_cast<std::uint32_t>(head & UINT32_MAX);
    while (!empty_list.compare_exchange_weak(head, ((head >> 32) + 1) << 32 | own_index));
}

bool take(Block &block, State from, State to) noexcept {
    return block.state.compare_exchange_strong(from, to);
}

void reset(Block &block, bool own) noexcept {
    block.advised = false;
    block.hands_off = false;
    block.reshaped = false;
    block.unloadable = false;
    block.own = own;
    block.history = History();
    block.resume_at = 0;
    block.number = next_number.fetch_add(1);
    block.stack = capture_stack(block.len);
}

void count_live(const Block &block, bool up) noexcept {
    const std::size_t len = block.len;
    if (up) {
        ++totals.blocks;
        totals.bytes += len;
        ++totals.live_blocks;
        totals.live_bytes += len;
    } else {
        --totals.live_blocks;
        totals.live_bytes -= len;
    }
}

void free_mapping(Block &block) noexcept {
    char *const addr = block.addr;
    const std::size_t len = block.len;
    if (take(block, State::kLive, State::kHeld)) {
        by_address.clear(addr, len, &block);
        count_live(block, false);
        end_record(block);
    } else if (take(block, State::kBusy, State::kBusyFreed)) {
        by_address.clear(addr, len, &block);
        --totals.live_blocks;
        totals.live_bytes -= len;
    }
}

// Makes a record of what lies at [addr, addr + len) public. Pre: kHeld. False: there is no room
// for it, or it lies in a block of which the rest must be remembered: that may show shared content.
bool publish(Block &block, char *addr, std::size_t len, bool own, bool rest = false) noexcept {
    bool free = true;
    for_each_block(addr, len, [&](Block &before) {
        if (&before == &block)
            return;
        if (before.own || (before.advised && before.reshaped && may_restore()))
            free = false;
        else
            free_mapping(before); // ended without our knowledge
    });
    if (!free)
        return false;
    block.addr = addr;
    block.len = len;
    reset(block, own);
    if (rest) {
        block.advised = true;
        block.hands_off = true;
        block.reshaped = true;
        block.unloadable = true;
    }
    if (!by_address.set(addr, len, &block))
        return false;
    count_live(block, true);
    block.state = State::kLive;
    return true;
}

// --- the cache ---
//
// Programs that allocate and free large blocks again and again would otherwise
// pay for fresh pages each time. The amounts are those up to which glibc's malloc
// keeps freed memory (M_MMAP_THRESHOLD_MAX, and a trim threshold of twice that).
// Blocks that were advised never get here. Nor does any where the address space or the
// data of the process are limited: there the program could have used the room otherwise.

constexpr std::size_t kMaxCachedBlock = 32UL << 20;
constexpr std::size_t kMaxCachedBytes = 64UL << 20;

struct Slot {
    std::atomic<Block *> block{nullptr};
    std::atomic<std::size_t> len{0}; // of the block, as a hint
};
constinit std::array<Slot, 64> cache;
constinit std::atomic<std::size_t> cached_bytes{0};

bool limited() noexcept {
    for (const auto what : {RLIMIT_AS, RLIMIT_DATA}) {
        rlimit limit{};
        if (::getrlimit(what, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY)
            return true;
    }
    return false;
}

// Pre: kHeld, not in by_address any more. false: no room.
bool cache_put(Block &block) noexcept {
    const std::size_t len = block.len;
    if (len > kMaxCachedBlock || (!sandboxed() && limited()))
        return false;
    if (cached_bytes.fetch_add(len) + len <= kMaxCachedBytes) {
        block.state = State::kCached;
        for (Slot &slot : cache) {
            Block *none = nullptr;
            if (slot.block.load(std::memory_order_relaxed) == nullptr &&
                slot.block.compare_exchange_strong(none, &block)) {
                slot.len = len;
                return true;
            }
        }
        block.state = State::kHeld;
    }
    cached_bytes -= len;
    return false;
}

// Takes what a slot holds, as kHeld.
Block *cache_take(Slot &slot) noexcept {
    Block *const block = slot.block.exchange(nullptr);
    if (block != nullptr) {
        cached_bytes -= block->len;
        block->state = State::kHeld;
    }
    return block;
}

// The slot whose block serves best: the smallest that is large enough, of which a
// fifth at most is left over; else the largest of the smaller ones, which then grows.
Slot *best_slot(std::size_t len) noexcept {
    Slot *fitting = nullptr;
    Slot *growing = nullptr;
    std::size_t most = len + len / 4;
    std::size_t least = len / 2;
    for (Slot &slot : cache) {
        const std::size_t have = slot.len.load(std::memory_order_relaxed);
        if (have < least || have > most || slot.block.load(std::memory_order_relaxed) == nullptr)
            continue;
        if (have >= len) {
            fitting = &slot;
            most = have;
        } else {
            growing = &slot;
            least = have;
        }
    }
    return fitting != nullptr ? fitting : growing;
}

// Pre: kHeld. Makes it at least that long, keeping the pages that it has.
bool grow(Block &block, std::size_t len, std::size_t alignment) noexcept {
    if (block.len < len && alignment <= kPageSize) {
        char *const moved = remap_pages(block.addr, block.len, len);
        if (moved == nullptr)
            return false;
        block.addr = moved;
        block.len = len;
    }
    return block.len >= len && reinterpret_cast<std::uintptr_t>(block.addr.load()) % alignment == 0;
}

Block *cache_get(std::size_t len, std::size_t alignment) noexcept {
    if (cached_bytes.load(std::memory_order_relaxed) == 0)
        return nullptr;
    Slot *const slot = best_slot(len);
    Block *const block = slot != nullptr ? cache_take(*slot) : nullptr;
    if (block == nullptr)
        return nullptr;
    // The slot may have been filled anew since it was looked at.
    if (block->len <= len + len / 4 && grow(*block, len, alignment))
        return block;
    if (!cache_put(*block)) {
        (void)real().munmap(block->addr, block->len);
        end_record(*block);
    }
    return nullptr;
}

void unmap(Block &block) noexcept {
    (void)real().munmap(block.addr, block.len);
    end_record(block);
}

} // namespace

const AddressMap<Block> &block_map() noexcept {
    return by_address;
}

const BlockTotals &block_totals() noexcept {
    return totals;
}

std::uint32_t block_count() noexcept {
    return used_records.load();
}

Block &block_at(std::uint32_t index) noexcept {
    return records[index];
}

std::uint64_t next_block_number() noexcept {
    return next_number.load();
}

void *allocate_block(std::size_t size, std::size_t alignment, bool zero) noexcept {
    const std::size_t len = round_up(size);
    if (len == 0 || len > PTRDIFF_MAX || alignment > PTRDIFF_MAX)
        return nullptr;
    if (Block *const cached = cache_get(len, alignment); cached != nullptr) {
        char *const addr = cached->addr;
        if (zero) {
            std::memset(addr, 0, size);
            cached->filled.add(0, size);
        }
        if (publish(*cached, addr, cached->len, true))
            return addr;
        unmap(*cached);
        return nullptr;
    }
    Block *const block = new_record();
    if (block == nullptr)
        return nullptr;
    char *addr = map_pages(len, alignment);
    if (addr == nullptr && drop_cache() != 0)
        addr = map_pages(len, alignment);
    if (addr != nullptr && publish(*block, addr, len, true))
        return addr;
    if (addr != nullptr)
        (void)real().munmap(addr, len);
    end_record(*block);
    return nullptr;
}

Block *find_own(const void *pointer) noexcept {
    if (!page_aligned(pointer))
        return nullptr;
    Block *const block = by_address.find(pointer);
    return block != nullptr && block->own && block->addr == pointer ? block : nullptr;
}

namespace {

// Pre: the adviser had it a moment ago. It looks at hands_off before it touches a block,
// and ends the record if it still has it.
void free_busy(Block &block, char *addr, std::size_t len) noexcept {
    const Change exclusive;
    block.hands_off = true;
    short_lived.frees(block.life);
    Change::end_piece(addr, len);
    by_address.clear(addr, len, &block);
    --totals.live_blocks;
    totals.live_bytes -= len;
    (void)real().munmap(addr, len);
    while (!take(block, State::kBusy, State::kBusyFreed))
        if (take(block, State::kLive, State::kHeld)) {
            end_record(block);
            return;
        }
}

// In a sandbox that allows no munmap, what the real allocator would have had in its heap must
// not be unmapped; it is lost. Larger memory that allocator unmaps, too.
bool must_stay(std::size_t len) noexcept {
    constexpr std::size_t kMmapThreshold = 128UL << 10;
    return len < kMmapThreshold && sandboxed();
}

} // namespace

void free_block(Block &block) noexcept {
    char *const addr = block.addr;
    const std::size_t len = block.len;
    for (;;) {
        if (take(block, State::kLive, State::kHeld)) {
            by_address.clear(addr, len, &block);
            count_live(block, false);
            short_lived.frees(block.life);
            const bool advised = block.advised;
            const bool renewed = block.renewed && !short_lived.is_stream();
            if ((advised || renewed || block.hands_off || block.reshaped || !cache_put(block)) &&
                !must_stay(len))
                unmap(block);
            if (advised)
                notice_unmapped();
            return;
        }
        const State state = block.state.load();
        if (state == State::kBusy) {
            free_busy(block, addr, len);
            notice_unmapped();
            return;
        }
        if (state != State::kLive)
            return; // freed twice
    }
}

void *resize_block(Block &block, std::size_t size) noexcept {
    const std::size_t len = round_up(size);
    char *const addr = block.addr;
    const std::size_t old_len = block.len;
    if (len == 0 || len > PTRDIFF_MAX)
        return nullptr;
    // A quarter may be left over, as it may in a block from the cache.
    if (len <= old_len && len >= old_len - old_len / 4)
        return addr;
    // Shared content makes several mappings of one, which mremap cannot move.
    if (block.advised || block.hands_off || !take(block, State::kLive, State::kHeld))
        return nullptr;
    char *const moved = remap_pages(addr, old_len, len);
    if (moved == nullptr) {
        block.state = State::kLive;
        return nullptr;
    }
    by_address.clear(addr, old_len, &block);
    count_live(block, false);
    if (publish(block, moved, len, true))
        return moved;
    (void)real().mremap(moved, len, old_len, MREMAP_MAYMOVE | MREMAP_FIXED, addr);
    (void)publish(block, addr, old_len, true); // its node is there
    return nullptr;
}

void record_mapping(void *addr, std::size_t len, bool rest) noexcept {
    Block *const block = new_record();
    if (block != nullptr && !publish(*block, static_cast<char *>(addr), len, false, rest))
        end_record(*block);
}

namespace {

Block *mapping_at(const void *addr) noexcept {
    Block *const block = page_aligned(addr) ? by_address.find(addr) : nullptr;
    return block != nullptr && !block->own && block->addr == addr ? block : nullptr;
}

} // namespace

const Block *find_mapping(const void *addr) noexcept {
    return mapping_at(addr);
}

void forget_mapping(const void *addr) noexcept {
    if (Block *const block = mapping_at(addr); block != nullptr)
        free_mapping(*block);
}

bool take_block(Block &block) noexcept {
    return take(block, State::kLive, State::kBusy);
}

void release_block(Block &block) noexcept {
    if (!take(block, State::kBusy, State::kLive))
        end_record(block);
}

std::size_t drop_cache() noexcept {
    std::size_t bytes = 0;
    for (Slot &slot : cache) {
        Block *const block = cache_take(slot);
        if (block == nullptr)
            continue;
        bytes += block->len;
        unmap(*block);
    }
    return bytes;
}

void blocks_after_fork_child() noexcept {
    const std::uint32_t count = block_count();
    for (std::uint32_t i = 0; i < count; ++i) {
        Block &block = records[i];
        if (block.state == State::kBusy || block.state == State::kBusyFreed)
            release_block(block);
    }
}

} // namespace upm::hook
