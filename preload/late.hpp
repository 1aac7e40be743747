// SPDX-License-Identifier: MIT
//
// What came too late to share on load: parts of the hook's own blocks that were filled from
// a file which can be shared, but by a plain read, since the broker was not there or did not
// answer in time. When the program is idle they come to share after all (pass.cpp).
//
// A part is only a hint. The program may have written to it or freed it since; whoever takes
// it checks the block by its number, and compares every byte.
#ifndef UPM_PRELOAD_LATE_HPP
#define UPM_PRELOAD_LATE_HPP

#include "libupm/engine/backend.hpp"
#include "preload/blocks.hpp"

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

namespace upm::hook {

// Whole pages of a block, and where in a file their content was.
struct LatePart {
    Block *block = nullptr;
    std::uint64_t number = 0; // of the block: another one if it was freed since
    char *at = nullptr;
    std::size_t len = 0;      // bytes
    std::uint64_t offset = 0; // of the file
    std::uint32_t file = 0;
    unsigned tries = 0; // in vain
    bool told = false;  // the broker knows that it came too late
    std::uint64_t due_ns = 0;
};

// Keeps in mind that a part of the block is being read plainly. Only whole pages count; what
// is known of the same memory is forgotten. `told`: the backend knows. Pre: signals are blocked.
void note_late(Block &block, int fd, off_t offset, const void *at, std::size_t len,
               bool told) noexcept;

// Gives one of which the backend has not been told, for that to be done. It stays among what
// is kept. False: there is none.
bool take_untold(LatePart &part) noexcept;

// Takes one that is due out of what is kept. False: there is none.
bool take_late(LatePart &part, std::uint64_t now_ns) noexcept;

// Puts the rest of a part back, to be tried again at that time, or, `in_vain`, after a pause
// that doubles with each try, until the last one.
void put_back_late(LatePart part, std::uint64_t due_ns) noexcept;
void put_back_in_vain(LatePart part, std::uint64_t now_ns) noexcept;

// Opens the file of a part anew, if it is still the same one; -1: it is not. Nothing else is
// opened.
int open_late(const LatePart &part) noexcept;

// When the next one is due, CLOCK_MONOTONIC; UINT64_MAX: there is none.
std::uint64_t next_late_ns() noexcept;

// All of it is of no use, or the parent's.
void forget_late() noexcept;

// Notes what a load into a block says.
class LateNotes final : public LateParts {
  public:
    LateNotes(Block &block, int fd, off_t offset, const void *into) noexcept
        : block_(block), fd_(fd), offset_(offset), into_(static_cast<const std::byte *>(into)) {}
    void add(const std::byte *at, std::size_t size) noexcept override {
        note_late(block_, fd_, offset_ + (at - into_), at, size, true); // by the load itself
    }
    void skipped() noexcept override { skipped_ = true; }
    void existed() noexcept override { existed_ = true; }
    [[nodiscard]] bool was_skipped() const noexcept { return skipped_; }
    [[nodiscard]] bool all_existed() const noexcept { return existed_; }

  private:
    Block &block_;
    int fd_;
    off_t offset_;
    const std::byte *into_;
    bool skipped_ = false;
    bool existed_ = false;
};

} // namespace upm::hook

#endif // UPM_PRELOAD_LATE_HPP
