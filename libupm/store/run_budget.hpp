// SPDX-License-Identifier: MIT
//
// How many runs of pages this process has mapped from segments. Each costs it up to two
// mappings, of which the kernel allows vm.max_map_count.
#ifndef UPM_STORE_RUN_BUDGET_HPP
#define UPM_STORE_RUN_BUDGET_HPP

#include <atomic>
#include <cstdint>

namespace upm::store {

class RunBudget {
  public:
    static constexpr std::uint32_t kFree = 2048; // up to here single pages are fine
    static constexpr std::uint32_t kMinRun = 16; // pages of a run above that

    // Takes a quarter of what the kernel allows; the rest is the program's.
    void find_limit() noexcept;
    // Counts one more run of so many pages; false if that is too many.
    bool afford(std::uint32_t pages) noexcept;
    [[nodiscard]] bool plenty() const noexcept { return used_.load() < kFree; }
    // Counts anew, when it matters: the program may have unmapped what was merged.
    void recount() noexcept;

  private:
    std::atomic<std::uint32_t> used_{0};
    std::uint32_t limit_ = 16'000;
};

} // namespace upm::store

#endif // UPM_STORE_RUN_BUDGET_HPP
