// SPDX-License-Identifier: MIT
//
// Whether memory is there, by PAGEMAP_SCAN (Linux 6.7): it gives ranges and touches page
// tables only, where reading /proc/PID/pagemap looks at each page's own record.
#ifndef UPM_MM_PAGEMAP_HPP
#define UPM_MM_PAGEMAP_HPP

#include <cstdint>

namespace upm {

// Whether every page of a range is in memory. False as well if that cannot be told.
// `pagemap` is a descriptor of /proc/self/pagemap.
bool all_present(int pagemap, std::uint64_t start, std::uint64_t size) noexcept;

} // namespace upm

#endif // UPM_MM_PAGEMAP_HPP
