// SPDX-License-Identifier: MIT
//
// The mappings below blocks: where they lie. Those of kHugeSize and above begin at a
// multiple of it, as long as there is room.
#ifndef UPM_PRELOAD_PAGES_HPP
#define UPM_PRELOAD_PAGES_HPP

#include <cstddef>

namespace upm::hook {

// Fresh memory, whole pages; nullptr: no room.
char *map_pages(std::size_t len, std::size_t alignment) noexcept;

// Changes the length of one mapping, and its place if need be, keeping the pages that
// it has. Returns the place; nullptr: nothing changed.
char *remap_pages(char *addr, std::size_t old_len, std::size_t len) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_PAGES_HPP
