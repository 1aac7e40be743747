// SPDX-License-Identifier: MIT
//
// What may be replaced, and why the rest may not. See the table in docs/store.md.
#ifndef UPM_STORE_ELIGIBLE_HPP
#define UPM_STORE_ELIGIBLE_HPP

#include "libupm/mm/pagemap.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/window.hpp"

namespace upm::store {

// Returns true if the program could not tell a private mapping of a segment from this
// one, nor lock itself up while it is frozen. Else `reason` is one of UPM_SKIPPED_*. `frame`:
// that of the call whose work this is; nothing above it on the stack is written to meanwhile.
bool eligible(const Vma &part, const void *frame, unsigned &reason) noexcept;

// Leaves out the pages of a fresh window that are shared already, or not there. `segment`:
// it is of a mapping of one. 0 or -errno.
int sort_out(Window &window, const PageMap &pagemap, bool segment) noexcept;

// Puts those of its pages to be done aside that another process maps too, since one was
// forked: a segment of them would be one copy more, as long as the others keep theirs. 0 or
// -errno.
int put_forked_aside(Window &window, const PageMap &pagemap) noexcept;

} // namespace upm::store

#endif // UPM_STORE_ELIGIBLE_HPP
