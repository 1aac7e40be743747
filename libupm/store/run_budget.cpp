// SPDX-License-Identifier: MIT
#include "libupm/store/run_budget.hpp"

#include "libupm/base/descriptor_table.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/vma_reader.hpp"

#include <charconv>
#include <fcntl.h>
#include <unistd.h>

namespace upm::store {

void RunBudget::find_limit() noexcept {
    constexpr std::uint32_t kShare = 4;
    constexpr std::uint32_t kDefault = 65'530;
    std::uint32_t maximum = kDefault;
    char text[32];
    const int fd = ::open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, text, sizeof(text)) : -1;
    if (fd >= 0)
        ::close(fd);
    if (got > 0)
        (void)std::from_chars(text, text + got, maximum);
    limit_ = maximum / kShare;
}

bool RunBudget::afford(std::uint32_t pages) noexcept {
    const std::uint32_t used = used_.load(std::memory_order_relaxed);
    if (used >= limit_ || (used >= kFree && pages < kMinRun))
        return false;
    used_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

// When there are half as many again, which makes up for the time that it takes to count them; and
// now and then.
bool RunBudget::due(std::uint32_t used) noexcept {
    constexpr std::uint64_t kOwnPauseNs = 1'000'000'000;
    constexpr std::uint64_t kPauseNs = 10'000'000'000;
    const bool own = descriptor_table() != 0;
    if (used < kFree / 2 || (left_ && !own))
        return false;
    const std::uint32_t counted = counted_.load();
    const bool grown = used >= counted + counted / 2 + kFree / 2;
    const std::uint64_t now = now_ns();
    std::uint64_t next = next_ns_.load();
    return (grown || now >= next) &&
           next_ns_.compare_exchange_strong(next, now + (own ? kOwnPauseNs : kPauseNs));
}

void RunBudget::recount() noexcept {
    if (due(used_.load()))
        count();
}

void RunBudget::count() noexcept {
    SmapsReader maps(own_maps());
    std::uint32_t runs = 0;
    for (Vma vma; maps.next_header(vma);)
        runs += (vma.flags & kVmaSegment) != 0 ? 1U : 0U;
    if (maps.error() == 0)
        used_.store(runs);
    counted_.store(used_.load());
}

} // namespace upm::store
