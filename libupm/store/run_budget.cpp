// SPDX-License-Identifier: MIT
#include "libupm/store/run_budget.hpp"

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

void RunBudget::recount() noexcept {
    if (used_.load() < kFree / 2)
        return;
    SmapsReader maps(own_maps());
    std::uint32_t runs = 0;
    for (Vma vma; maps.next_header(vma);)
        runs += (vma.flags & kVmaSegment) != 0 ? 1U : 0U;
    if (maps.error() == 0)
        used_.store(runs);
}

} // namespace upm::store
