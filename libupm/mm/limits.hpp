// SPDX-License-Identifier: MIT
//
// The program's own limits of memory. What is mapped here beside the program's memory counts for
// them too, and so a program near one would be refused memory that it gets without us.
#ifndef UPM_MM_LIMITS_HPP
#define UPM_MM_LIMITS_HPP

namespace upm {

// Returns true if the program has no limit of its address space or its data (RLIMIT_AS,
// RLIMIT_DATA), or has used so little of it that it does not miss what many threads map at a time.
bool far_from_limits() noexcept;

} // namespace upm

#endif // UPM_MM_LIMITS_HPP
