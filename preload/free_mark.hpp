// SPDX-License-Identifier: MIT
//
// glibc (2.34 and newer) marks freed blocks with a number that it chooses at random in each
// process, to notice that a block is freed twice. It stays in free memory: of the pages that
// differed between processes of one layout, one in eight differed for nothing else.
#ifndef UPM_PRELOAD_FREE_MARK_HPP
#define UPM_PRELOAD_FREE_MARK_HPP

#include <cstdint>

namespace upm::hook {

// Makes it this number. Does nothing, and leaves everything as it is, in every libc in which
// the mark is not found where it is expected. Pre: ready(), and this thread is the only one.
void set_free_mark(std::uint64_t mark) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_FREE_MARK_HPP
