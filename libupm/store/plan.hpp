// SPDX-License-Identifier: MIT
//
// Which pages of a window go where in the segment that is to be made of them: huge runs
// first, each equal page once. A huge run is 2 MiB of the program's memory, from a
// multiple of 2 MiB on, that goes into the segment as a whole and gets a huge page there.
#ifndef UPM_STORE_PLAN_HPP
#define UPM_STORE_PLAN_HPP

#include "libupm/store/frozen.hpp"
#include "libupm/store/lookup.hpp"
#include "libupm/store/window.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

class Plan {
  public:
    struct Wishes {
        bool huge = true; // runs that nearly fill a huge page get one
        bool fold = true; // equal pages become one, which costs mappings
    };
    // Gives each reserved page of the hashed ones its number in the segment. Post: pages
    // that are to be copied there are kNew, others that will be found in it kKnown.
    void make(Window &window, Lookup &lookup, const Wishes &wishes) noexcept;
    // Only the first `pages` of the segment come to be.
    void cut(std::uint32_t pages) noexcept { pages_ = pages; }
    // The hash of a page of the segment, which had another content when it was planned.
    void correct(std::uint32_t page, std::uint64_t hash) noexcept { hashes_[page] = hash; }

    // Of the segment.
    [[nodiscard]] std::uint32_t pages() const noexcept { return pages_; }
    [[nodiscard]] std::span<const std::uint64_t> hashes() const noexcept {
        return {hashes_, pages_};
    }
    // The first pages of the huge runs.
    [[nodiscard]] std::span<const std::uint32_t> huge_runs() const noexcept {
        return {huge_, huge_runs_};
    }
    [[nodiscard]] bool in_huge_run(std::uint32_t index) const noexcept;
    // Pages of huge runs that take memory in the segment only for their place.
    [[nodiscard]] std::uint32_t padding() const noexcept { return padding_; }
    // Padding that was not mapped from the segment becomes again what it was.
    void give_padding_back(Window &window, const Lookup &lookup) const noexcept;

  private:
    static constexpr std::uint32_t kTable = 4 * kMaxPages; // a power of two

    void find_huge_runs(const Window &window, const Lookup &lookup) noexcept;
    void number_huge_runs(Window &window, Lookup &lookup) noexcept;
    void number_rest(Window &window, Lookup &lookup, bool fold) noexcept;
    std::uint32_t number_of(std::uint64_t hash) noexcept;
    void forget_numbers() noexcept;
    template <class Visit>
    void for_each_in_huge_runs(const Lookup &lookup, Visit visit) const noexcept;

    std::uint32_t pages_ = 0;
    std::uint32_t huge_runs_ = 0;
    std::uint32_t padding_ = 0;
    std::uint32_t huge_[kMaxPages / kBatch];
    std::uint64_t hashes_[kMaxPages];
    std::uint16_t table_[kTable]; // over them: 1 + number, 0: free
};

} // namespace upm::store

#endif // UPM_STORE_PLAN_HPP
