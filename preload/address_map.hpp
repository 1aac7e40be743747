// SPDX-License-Identifier: MIT
//
// From the first page of a block to its record: a radix tree over the 36 bits of
// a page number, 12 at a time. free() asks it about every page-aligned pointer, so
// it is read without locks; nodes are made when needed and never freed. Costs one
// page of memory for each 2 MiB of address space in which blocks begin.
#ifndef UPM_PRELOAD_ADDRESS_MAP_HPP
#define UPM_PRELOAD_ADDRESS_MAP_HPP

#include "preload/page.hpp"
#include "preload/real.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <sys/mman.h>

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
        if (page >> (3 * kBits) != 0)
            return nullptr;
        Middle *const middle = root_[page >> (2 * kBits)].load(std::memory_order_acquire);
        if (middle == nullptr)
            return nullptr;
        Leaf *const leaf = (*middle)[page >> kBits & kMask].load(std::memory_order_acquire);
        return leaf == nullptr ? nullptr : (*leaf)[page & kMask].load(std::memory_order_acquire);
    }

    // false: no memory for a node, or an address beyond 48 bits.
    bool set(const void *addr, Record *record) noexcept {
        const std::uint64_t page = page_number(addr);
        if (page >> (3 * kBits) != 0)
            return false;
        Middle *const middle = child(root_[page >> (2 * kBits)]);
        Leaf *const leaf = middle == nullptr ? nullptr : child((*middle)[page >> kBits & kMask]);
        if (leaf == nullptr)
            return false;
        (*leaf)[page & kMask].store(record, std::memory_order_release);
        return true;
    }

    // Ends the entry if it is still this record's.
    void clear(const void *addr, Record *record) noexcept {
        const std::uint64_t page = page_number(addr);
        Leaf *const leaf = (*root_[page >> (2 * kBits)].load())[page >> kBits & kMask].load();
        Record *expected = record;
        (*leaf)[page & kMask].compare_exchange_strong(expected, nullptr);
    }

  private:
    static constexpr unsigned kBits = 12;
    static constexpr std::uint64_t kMask = (1U << kBits) - 1;

    using Leaf = std::array<std::atomic<Record *>, 1U << kBits>;
    using Middle = std::array<std::atomic<Leaf *>, 1U << kBits>;

    static std::uint64_t page_number(const void *addr) noexcept {
        return reinterpret_cast<std::uintptr_t>(addr) / kPageSize;
    }

    // Zeroed pages are a node of null pointers.
    template <class Node>
    static Node *child(std::atomic<Node *> &slot) noexcept {
        Node *node = slot.load(std::memory_order_acquire);
        if (node != nullptr)
            return node;
        void *const memory = real().mmap(nullptr, sizeof(Node), PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return nullptr;
        auto *const made = static_cast<Node *>(memory);
        if (slot.compare_exchange_strong(node, made))
            return made;
        (void)real().munmap(memory, sizeof(Node)); // another thread was faster
        return node;
    }

    std::array<std::atomic<Middle *>, 1U << kBits> root_{};
};

} // namespace upm::hook

#endif // UPM_PRELOAD_ADDRESS_MAP_HPP
