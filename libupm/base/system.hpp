// SPDX-License-Identifier: MIT
//
// What every part asks the system for. Internal: no part of the interface.
#ifndef UPM_BASE_SYSTEM_HPP
#define UPM_BASE_SYSTEM_HPP

#include <cstdint>
#include <ctime>
#include <unistd.h>

namespace upm {

inline std::uint64_t page_size() noexcept {
    static const auto size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

// Of the clock that only goes forward.
inline std::uint64_t now_ns() noexcept {
    timespec now{};
    (void)::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
           static_cast<std::uint64_t>(now.tv_nsec);
}

inline std::uint64_t now_ms() noexcept {
    return now_ns() / 1'000'000U;
}

} // namespace upm

#endif // UPM_BASE_SYSTEM_HPP
