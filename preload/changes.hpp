// SPDX-License-Identifier: MIT
//
// The one rule between the adviser, which maps shared content over memory (backends that
// `restore`, upm_info), and whoever changes mappings: fork, munmap, mprotect, madvise,
// mremap, mmap(MAP_FIXED), free.
//
//   The adviser works on one piece at a time, a part of one block, and touches it only
//   while it holds the lock `change`; while it waits for a broker it does not hold it.
//   Who changes mappings holds `change` while it does. First it ends the piece if that
//   lies in its range: the adviser then never touches that memory again, wherever it
//   was. Then it tells the blocks in the range what has become of them.
//
// So a change waits for the adviser's work on some megabytes at most, and the adviser
// never works on what has changed since it looked.
//
// A fork holds `change` and ends nothing. The child gets the piece as the adviser leaves
// it between two touches: nothing is frozen then (the child of a registered mapping is not
// registered), and a page is either the program's own or mapped from a segment, with the
// same bytes. What the adviser's call had for itself, two or three mappings and some
// descriptors with close-on-exec, stays behind in the child.
//
// Signal handlers change mappings, too (garbage collectors do): so a thread blocks all
// signals while it holds `change`.
#ifndef UPM_PRELOAD_CHANGES_HPP
#define UPM_PRELOAD_CHANGES_HPP

#include "libupm/base/gate.hpp"
#include "preload/blocks.hpp"

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <upm/upm.hpp>

namespace upm::hook {

// False once a backend is in use that maps nothing else over the blocks: then nobody has to
// hold anything. It is true until that is known, since a call that began before could
// otherwise come to its end after something was mapped there.
bool may_restore() noexcept;

// Returns true if that backend maps something else over blocks, for merging or for loads:
// KSM merges in place, but loads go to the store then. The module does both in place.
bool maps_over_blocks(const Info &found) noexcept;
void set_may_restore(bool may) noexcept;

// While it lives, the adviser touches no memory.
class Change {
  public:
    Change() noexcept;
    Change(const Change &) = delete;
    Change &operator=(const Change &) = delete;
    ~Change();

    // Nor will it touch this part again in the piece that it is at.
    static void end_piece(const void *addr, std::size_t len) noexcept;

  private:
    sigset_t before_{}; // signals
};

// The heap, if that is advised (UPM_SCOPE=all): no block tells that it lies there.
void set_advised_heap(std::uintptr_t start, std::uintptr_t end) noexcept;
bool in_advised_heap(const void *addr, std::size_t len) noexcept;

// The same around a fork, which begins and ends in functions of its own.
void change_before_fork() noexcept;
void change_after_fork_parent() noexcept;
void change_after_fork_child() noexcept;

// Returns true if the adviser may work in the range, now or later.
bool concerns_adviser(const void *addr, std::size_t len) noexcept;

// Calls `rule` for each block, or mapping of the program, that intersects the range, and
// then `change`, whose result it returns; both while the adviser keeps away. What does not
// concern it costs one look at the map of blocks.
template <class Rule, class Action>
auto with_blocks(void *addr, std::size_t len, Rule rule, Action change) noexcept {
    if (!concerns_adviser(addr, len))
        return change();
    const Change exclusive;
    Change::end_piece(addr, len);
    for_each_block(addr, len, rule);
    return change();
}

// The adviser's side: the piece that it is at. One at a time, by the lock `pass`.
class Piece final : public Gate {
  public:
    // Pre: [addr, addr + len) is in the block, if there is one.
    Piece(const Block *block, const char *addr, std::size_t len) noexcept;
    Piece(const Piece &) = delete;
    Piece &operator=(const Piece &) = delete;
    ~Piece();

    bool enter() noexcept override;
    bool leave() noexcept override;
    bool breathe() noexcept override;
    [[nodiscard]] bool over() const noexcept override;
    [[nodiscard]] bool sole_writer() noexcept override;

  private:
    const Block *block_;
    bool inside_ = false;
    sigset_t before_{}; // signals, while it is inside
};

// Ends the piece that the adviser is at, and each one to come. Waits for nothing.
void end_all_pieces() noexcept;
bool all_pieces_ended() noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_CHANGES_HPP
