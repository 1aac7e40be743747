// SPDX-License-Identifier: MIT
//
// The kinds of memory that a program can ask to merge.
#ifndef UPM_TESTS_SUPPORT_MEMORY_HPP
#define UPM_TESTS_SUPPORT_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace upm::test {

enum class Kind : std::uint8_t {
    kSmallPages, // anonymous, no huge pages
    kHugePages,  // anonymous, transparent huge pages: freezing has to split them
    kTornHuge,   // the same, cut off by munmap(2), so that it is mapped page by page
    kFileClean,  // private file mapping, only read so far
    kFileDirty,  // private file mapping, every page written
    kStack,      // of the main thread: the mapping grows by itself
    kHeap,       // brk: neighbours of the range belong to the allocator
    kReadOnly,   // anonymous, mprotect(PROT_READ) after it was filled
};

const char *kind_name(Kind kind);

// Pages that hold a pattern of zero, equal, unique and nearly equal pages.
struct Memory {
    Kind kind;
    char *data;        // a multiple of the page size
    std::size_t pages; // whole ones
    std::string file;  // its path; empty for anonymous memory

    [[nodiscard]] std::size_t size() const;
    [[nodiscard]] char *page(std::size_t index) const;
    [[nodiscard]] bool anonymous() const { return file.empty(); }
    // Whether single pages may be unmapped without harm to others.
    [[nodiscard]] bool own_mapping() const { return kind != Kind::kStack && kind != Kind::kHeap; }
    void make_writable() const;
    // What the program must read, whatever was merged; empty: it does.
    [[nodiscard]] std::string difference() const;
};

// What page `index` of a Memory holds.
std::vector<char> expected_page(std::size_t index);

// Calls `use` with memory of that kind; gives a reason if there is none here.
std::optional<std::string> with_memory(Kind kind, const std::function<void(Memory &)> &use);

// Page frame numbers, or nothing without the right to see them.
std::optional<std::vector<std::uint64_t>> frames(const Memory &memory);

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_MEMORY_HPP
