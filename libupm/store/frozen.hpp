// SPDX-License-Identifier: MIT
//
// Memory of the program that is frozen for a moment. The sequence "no signals, freeze,
// look, let go" exists only here. While an object of Frozen lives, its thread must not
// write to memory of the program, wait for anybody, or talk to anybody: a writer to
// frozen memory waits for this very thread.
#ifndef UPM_STORE_FROZEN_HPP
#define UPM_STORE_FROZEN_HPP

#include "libupm/base/gate.hpp"
#include "libupm/mm/own_maps.hpp"
#include "libupm/mm/pagemap.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/freezer.hpp"

#include <bitset>
#include <csignal>
#include <cstdint>

namespace upm::store {

// Pages that are frozen together: a huge page, so that one need not be split that is
// replaced as a whole. This bounds how long a writer waits.
inline constexpr std::uint32_t kBatch = 512;

// How many pages from this address on may be frozen together: batches end where huge
// pages may begin.
std::uint32_t room_in_batch(std::uint64_t address) noexcept;

// One mapping, or a part of one, while it is worked on. Others who change mappings are let
// in before each freeze (`gate`, unless null).
class Target {
  public:
    struct Tools {
        Freezer &freezer;
        const PageMap &pagemap;
        const OwnMaps &maps;
        Gate *gate;
        std::uint64_t *entries; // room for kBatch of the page map: stacks may be small
    };
    Target(const Tools &tools, const Vma &part) noexcept : tools_(tools), part_(part) {}
    Target(const Target &) = delete;
    Target &operator=(const Target &) = delete;
    ~Target();

    [[nodiscard]] std::uint64_t start() const noexcept { return part_.start; }
    [[nodiscard]] std::uint64_t end() const noexcept { return part_.end; }
    [[nodiscard]] int protection() const noexcept { return part_.protection; }
    [[nodiscard]] bool segment() const noexcept { return (part_.flags & kVmaSegment) != 0; }
    [[nodiscard]] const PageMap &pagemap() const noexcept { return tools_.pagemap; }
    [[nodiscard]] Gate *gate() const noexcept { return tools_.gate; }
    // For whoever works on the target, while nothing of it is frozen.
    [[nodiscard]] std::uint64_t *entries() const noexcept { return tools_.entries; }
    // What has been mapped here since the first freeze is to be frozen as well.
    void renew() noexcept { registered_ = false; }
    // The memory is not ours to touch any more: nothing is frozen from now on.
    void lose() noexcept { lost_ = true; }

  private:
    friend class Frozen;
    int enter() noexcept;

    const Tools tools_;
    const Vma part_;
    bool registered_ = false; // with freezer_
    bool lost_ = false;
};

// While memory is frozen, no handler of the program may run in this thread.
class NoSignals {
  public:
    NoSignals() noexcept;
    NoSignals(const NoSignals &) = delete;
    NoSignals &operator=(const NoSignals &) = delete;
    ~NoSignals();

  private:
    sigset_t before_{};
};

// Up to kBatch pages of a target. What is mapped anew is let go at once, the rest by the
// destructor.
class Frozen {
  public:
    // Post: error() is 0, or -errno and nothing is frozen; ECANCELED: the target is lost.
    Frozen(Target &target, std::uint64_t start, std::uint32_t pages) noexcept;
    Frozen(const Frozen &) = delete;
    Frozen &operator=(const Frozen &) = delete;
    ~Frozen();

    [[nodiscard]] int error() const noexcept { return error_; }
    [[nodiscard]] std::uint64_t address(std::uint32_t index) const noexcept;
    // Returns true if that page cannot change. One that came into being after the rest
    // was frozen can, before Linux 6.4.
    [[nodiscard]] bool holds(std::uint32_t index) const noexcept;
    // Returns true if nobody has changed the protection of these pages since the target
    // was looked at, nor may write to them all the same. Else they must be left alone: what is
    // mapped in their place would have the old protection, or miss what is written. Asked last
    // before anything is mapped there.
    [[nodiscard]] bool intact(std::uint32_t first, std::uint32_t count) noexcept;
    // Something else is mapped there now: its writers go on.
    void replaced(std::uint32_t first, std::uint32_t count) noexcept;

  private:
    int freeze_and_look() noexcept;
    void let_go() noexcept;
    void thaw(std::uint64_t start, std::uint64_t end) noexcept;

    Target &target_;
    const std::uint64_t start_;
    const std::uint32_t pages_;
    int error_;
    const NoSignals guard_; // after others were let in
    enum class Writers : std::uint8_t { kNotAsked, kNone, kOthers };
    Writers writers_ = Writers::kNotAsked; // that no freeze stops
    std::bitset<kBatch> replaced_;
};

} // namespace upm::store

#endif // UPM_STORE_FROZEN_HPP
