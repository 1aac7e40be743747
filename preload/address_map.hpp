// SPDX-License-Identifier: MIT
//
// From an address to the record of the block that holds it: a radix tree over the 36 bits
// of a page number, 12 at a time. free() asks it about every page-aligned pointer, and
// munmap about each range, so it is read without locks, in a time that does not depend on
// the number of blocks; nodes are made when needed and never freed.
//
// A block has an entry at its first page, and covers each chunk, leaf and branch that
// begins inside of it. So the block that holds an address is the one that begins last
// before it in its chunk, or the one that covers the chunk.
//
// Pre: blocks do not overlap.
#ifndef UPM_PRELOAD_ADDRESS_MAP_HPP
#define UPM_PRELOAD_ADDRESS_MAP_HPP

#include "preload/page.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::hook {

template <class Record>
class AddressMap {
  public:
    constexpr AddressMap() noexcept = default;
    ~AddressMap() = default;
    AddressMap(const AddressMap &) = delete;
    AddressMap &operator=(const AddressMap &) = delete;

    // The record set for this page-aligned address; nullptr if none.
    [[nodiscard]] Record *find(const void *addr) const noexcept {
        const std::uint64_t page = page_number(addr);
        const Leaf *const leaf = leaf_of(page);
        return leaf == nullptr ? nullptr : leaf->entries[page & kMask].load();
    }

    // false: no memory for a node, or an address beyond 48 bits.
    bool set(const void *addr, std::size_t len, Record *record) noexcept {
        const std::uint64_t page = page_number(addr);
        const std::uint64_t end = page + len / kPageSize;
        if (end >> (3 * kBits) != 0 || end < page)
            return false;
        Middle *const middle = child(root_[page >> (2 * kBits)].below);
        Leaf *const leaf =
            middle == nullptr ? nullptr : child((*middle)[page >> kBits & kMask].below);
        if (leaf == nullptr || !cover(page, end, nullptr, record)) {
            (void)cover(page, end, record, nullptr);
            return false;
        }
        leaf->entries[page & kMask] = record;
        leaf->used[(page & kMask) / 64] |= bit_of(page);
        return true;
    }

    // Ends the entry if it is still this record's.
    void clear(const void *addr, std::size_t len, Record *record) noexcept {
        const std::uint64_t page = page_number(addr);
        Leaf *const leaf = leaf_of(page);
        if (leaf == nullptr)
            return;
        (void)cover(page, page + len / kPageSize, record, nullptr);
        // The bit first: another thread may set both anew.
        leaf->used[(page & kMask) / 64] &= ~bit_of(page);
        Record *expected = record;
        if (!leaf->entries[page & kMask].compare_exchange_strong(expected, nullptr) &&
            expected != nullptr)
            leaf->used[(page & kMask) / 64] |= bit_of(page);
    }

    // The record of the block that begins last at or before the address, or holds it; its
    // end is the caller's to look at. nullptr: no block holds the address.
    [[nodiscard]] Record *before(const void *addr) const noexcept {
        const std::uint64_t page = page_number(addr);
        if (page >> (3 * kBits) != 0)
            return nullptr;
        const Branch<Middle> &branch = root_[page >> (2 * kBits)];
        const Middle *const middle = branch.below.load();
        if (middle == nullptr)
            return branch.covered_by.load();
        const Branch<Leaf> &twig = (*middle)[page >> kBits & kMask];
        const Leaf *const leaf = twig.below.load();
        Record *found = nullptr;
        if (leaf != nullptr)
            found = before(*leaf, static_cast<unsigned>(page & kMask));
        if (found == nullptr)
            found = twig.covered_by.load();
        return found != nullptr ? found : branch.covered_by.load();
    }

    // Calls visit(record) for each block that begins in (addr, addr + len), in order.
    template <class Visit>
    void for_each_start(const void *addr, std::size_t len, Visit visit) const noexcept {
        const std::uint64_t first = page_number(addr) + 1;
        const auto at = reinterpret_cast<std::uintptr_t>(addr);
        const std::uint64_t last_byte = len - 1 > UINTPTR_MAX - at ? UINTPTR_MAX : at + (len - 1);
        const std::uint64_t end = std::min(last_byte / kPageSize + 1, 1UL << (3 * kBits));
        for (std::uint64_t page = first; len != 0 && page < end;) {
            const Middle *const middle = root_[page >> (2 * kBits)].below.load();
            if (middle == nullptr) {
                page = ((page >> (2 * kBits)) + 1) << (2 * kBits);
                continue;
            }
            const std::uint64_t leaf_end = ((page >> kBits) + 1) << kBits;
            const Leaf *const leaf = (*middle)[page >> kBits & kMask].below.load();
            if (leaf != nullptr)
                starts_in(*leaf, page, std::min(end, leaf_end), visit);
            page = leaf_end;
        }
    }

  private:
    static constexpr unsigned kBits = 12;
    static constexpr std::uint64_t kMask = (1U << kBits) - 1;
    static constexpr std::uint64_t kLeafPages = 1U << kBits;
    static constexpr std::uint64_t kMiddlePages = 1U << (2 * kBits);
    static constexpr std::uint64_t kChunkPages = kHugeSize / kPageSize;
    static constexpr unsigned kWordsInChunk = kChunkPages / 64;

    struct Leaf {
        std::array<std::atomic<std::uint64_t>, kLeafPages / 64> used; // entries, a bit for each
        std::array<std::atomic<Record *>, kLeafPages / kChunkPages> covered_by; // chunks
        std::array<std::atomic<Record *>, kLeafPages> entries;
    };
    template <class Below>
    struct Branch {
        std::atomic<Below *> below{nullptr};
        std::atomic<Record *> covered_by{nullptr}; // whole, and its first page is not the block's
    };
    using Middle = std::array<Branch<Leaf>, 1U << kBits>;

    static std::uint64_t page_number(const void *addr) noexcept {
        return reinterpret_cast<std::uintptr_t>(addr) / kPageSize;
    }
    static std::uint64_t bit_of(std::uint64_t page) noexcept { return 1UL << (page % 64); }

    [[nodiscard]] Leaf *leaf_of(std::uint64_t page) const noexcept {
        if (page >> (3 * kBits) != 0)
            return nullptr;
        const Middle *const middle = root_[page >> (2 * kBits)].below.load();
        return middle == nullptr ? nullptr : (*middle)[page >> kBits & kMask].below.load();
    }

    // Of the entry's chunk: what begins at the entry or before it, or covers the chunk.
    static Record *before(const Leaf &leaf, unsigned entry) noexcept {
        const unsigned chunk = entry / static_cast<unsigned>(kChunkPages);
        unsigned word = entry / 64;
        std::uint64_t bits = leaf.used[word].load() & (~0UL >> (63 - entry % 64));
        while (bits == 0 && word > chunk * kWordsInChunk)
            bits = leaf.used[--word].load();
        if (bits == 0)
            return leaf.covered_by[chunk].load();
        return leaf.entries[word * 64 + 63U - static_cast<unsigned>(std::countl_zero(bits))].load();
    }

    template <class Visit>
    static void starts_in(const Leaf &leaf, std::uint64_t page, std::uint64_t end,
                          Visit visit) noexcept {
        while (page < end) {
            const std::uint64_t bits = leaf.used[(page & kMask) / 64].load() >> (page % 64);
            if (bits == 0) {
                page = (page / 64 + 1) * 64;
                continue;
            }
            page += static_cast<unsigned>(std::countr_zero(bits));
            Record *const record = page < end ? leaf.entries[page & kMask].load() : nullptr;
            if (record != nullptr)
                visit(*record);
            ++page;
        }
    }

    static void mark(std::atomic<Record *> &slot, Record *from, Record *to) noexcept {
        if (from == nullptr)
            slot = to;
        else
            slot.compare_exchange_strong(from, to);
    }

    // Covers, or no longer covers, what begins in (page, end), in the largest units that
    // fit: a block of a terabyte takes a few dozen steps. false: no memory for a node.
    bool cover(std::uint64_t page, std::uint64_t end, Record *from, Record *to) noexcept {
        for (std::uint64_t at = (page / kChunkPages + 1) * kChunkPages; at < end;) {
            Branch<Middle> &branch = root_[at >> (2 * kBits)];
            if (at % kMiddlePages == 0 && end - at >= kMiddlePages) {
                mark(branch.covered_by, from, to);
                at += kMiddlePages;
                continue;
            }
            Middle *const middle = child(branch.below);
            if (middle == nullptr)
                return false;
            Branch<Leaf> &twig = (*middle)[at >> kBits & kMask];
            if (at % kLeafPages == 0 && end - at >= kLeafPages) {
                mark(twig.covered_by, from, to);
                at += kLeafPages;
                continue;
            }
            Leaf *const leaf = child(twig.below);
            if (leaf == nullptr)
                return false;
            mark(leaf->covered_by[(at & kMask) / kChunkPages], from, to);
            at += kChunkPages;
        }
        return true;
    }

    // Zeroed pages are a node of null pointers. By the bare call, as the hooked one records.
    template <class Node>
    static Node *child(std::atomic<Node *> &slot) noexcept {
        Node *node = slot.load(std::memory_order_acquire);
        if (node != nullptr)
            return node;
        const long memory = ::syscall(SYS_mmap, nullptr, sizeof(Node), PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
        if (memory == -1)
            return nullptr;
        // NOLINTNEXTLINE(performance-no-int-to-ptr): the system call's result
        auto *const made = reinterpret_cast<Node *>(memory);
        if (slot.compare_exchange_strong(node, made))
            return made;
        (void)::syscall(SYS_munmap, memory, sizeof(Node)); // another thread was faster
        return node;
    }

    std::array<Branch<Middle>, 1U << kBits> root_{};
};

} // namespace upm::hook

#endif // UPM_PRELOAD_ADDRESS_MAP_HPP
