// SPDX-License-Identifier: MIT
#ifndef UPM_PRELOAD_ENABLE_HPP
#define UPM_PRELOAD_ENABLE_HPP

#include <cstddef>

namespace upm::hook {

// From now on blocks of this size and above are the hook's; SIZE_MAX: none.
void set_threshold(std::size_t bytes) noexcept;

// Returns true if a block of this size, asked for by this thread now, is the hook's.
bool wants(std::size_t size) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_ENABLE_HPP
