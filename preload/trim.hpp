// SPDX-License-Identifier: MIT
//
// Gives back what glibc's malloc keeps of freed memory, and what the hook itself keeps.
// Other allocators do that by themselves.
#ifndef UPM_PRELOAD_TRIM_HPP
#define UPM_PRELOAD_TRIM_HPP

#include <cstdint>

namespace upm::hook {

// Within ten seconds of the last time only if `forced`: a program that works again and
// again would pay for fresh pages each time. Returns the bytes by which resident memory
// fell. Pre: one caller at a time.
std::uint64_t trim(bool forced) noexcept;

// When to do what was left undone for being too early; UINT64_MAX: there is nothing.
std::uint64_t next_trim_ns() noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_TRIM_HPP
