// SPDX-License-Identifier: MIT
//
// Huge pages that are mapped page by page (torn by munmap, mprotect or mremap of a
// part) look like small ones to the program but are one folio to the kernel.
#ifndef UPM_BACKENDS_TORN_PAGES_HPP
#define UPM_BACKENDS_TORN_PAGES_HPP

#include <cstdint>

namespace upm {

// Asks the kernel to make single pages of them: [addr, addr + len), whole pages, of
// the process pid, 0 for this one. Bytes and mappings stay; pages count as less
// recently used. Does what it can: another process needs CAP_SYS_NICE, and locked
// memory (mlock) stays as it is.
void split_huge_pages(int pid, std::uint64_t addr, std::uint64_t len) noexcept;

} // namespace upm

#endif // UPM_BACKENDS_TORN_PAGES_HPP
