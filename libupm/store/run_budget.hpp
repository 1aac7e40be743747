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
    // Counts anew, when it matters: the program may have unmapped what was merged. That is to
    // read all mappings of the process. So threads of the program do it rarely, and not at all
    // where the library has a thread with a table of descriptors of its own, which does.
    void recount() noexcept;
    void leave_to_own_thread() noexcept { left_ = true; }

  private:
    [[nodiscard]] bool due(std::uint32_t used) noexcept;
    // Apart from recount(), since it takes much of a stack.
    [[gnu::noinline]] void count() noexcept;

    std::atomic<std::uint32_t> used_{0};
    std::atomic<std::uint32_t> counted_{0}; // the last time
    std::atomic<std::uint64_t> next_ns_{0}; // not again before
    std::atomic<bool> left_{false};
    std::uint32_t limit_ = 16'000;
};

} // namespace upm::store

#endif // UPM_STORE_RUN_BUDGET_HPP
