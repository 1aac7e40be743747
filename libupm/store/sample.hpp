// SPDX-License-Identifier: MIT
//
// The pages by which a window of a file is found: some at its beginning, and as many
// spread over it, since files of one kind often begin alike. Several segments may hold
// pages of the same hashes; the one with most of them, in the same layout, is taken.
#ifndef UPM_STORE_SAMPLE_HPP
#define UPM_STORE_SAMPLE_HPP

#include "libupm/store/wire.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

class Sample {
  public:
    static constexpr std::uint32_t kMost = 16;      // pages
    static constexpr std::uint32_t kCandidates = 4; // places of each
    static constexpr std::uint32_t kPlaces = kMost * kCandidates;
    static constexpr std::size_t kRoom = 64UL << 10U; // bytes: a page, whatever its size is

    // Hashes pages of `size` bytes of a file from `offset` on; zeros are left out. Reads into
    // `room`, of kRoom bytes. Returns true if there are any.
    bool take(int fd, std::uint64_t offset, std::size_t size, std::byte *room,
              std::uint64_t seed) noexcept;
    // How many bytes from `offset` on lie in `room` after that, as they were read.
    [[nodiscard]] std::size_t begun() const noexcept { return begun_; }

    // Each hash so many times as there can be candidates for it.
    [[nodiscard]] std::span<const std::uint64_t> hashes() const noexcept {
        return {hashes_, std::size_t{count_} * kCandidates};
    }
    // Equal for windows whose samples and sizes are.
    [[nodiscard]] std::uint64_t likeness() const noexcept { return likeness_; }

    struct Candidate {
        Place first; // where page 0 of the window would be
        std::uint32_t votes = 0;
    };
    // The best one among the places of the hashes, but none of the segment `except`; none:
    // no votes.
    [[nodiscard]] Candidate choose(std::span<const Place> places,
                                   std::uint32_t except) const noexcept;
    // Returns true if a segment of so many pages has most of what it should have.
    [[nodiscard]] bool convinces(const Candidate &candidate, std::uint32_t pages) const noexcept;

  private:
    static constexpr std::size_t kNear = 256UL << 10U; // bytes, what is near the beginning
    static constexpr std::size_t kTogether = 32UL
                                             << 10U; // bytes that are read in one go, or a page

    bool add(const std::byte *page, std::uint32_t number, std::uint64_t seed) noexcept;

    std::uint64_t hashes_[kPlaces] = {};
    std::uint32_t pages_[kMost] = {}; // of the window
    std::uint32_t count_ = 0;
    std::size_t begun_ = 0;
    std::uint64_t likeness_ = 0;
};

} // namespace upm::store

#endif // UPM_STORE_SAMPLE_HPP
