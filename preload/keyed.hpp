// SPDX-License-Identifier: MIT
//
// The layout of `upm run --layout keyed`. The kernel puts all mappings of a program
// without address randomisation below a gap as large as the soft limit of its stack, so
// upm run sets that limit by a key. When the program runs, the limit has done its work:
// the hook puts it back, with all else that upm run changed, before any code of the
// program can see it.
#ifndef UPM_PRELOAD_KEYED_HPP
#define UPM_PRELOAD_KEYED_HPP

namespace upm::hook {

// Puts limit, personality, environment and the size of new threads' stacks back, and moves
// the heap. Does nothing if upm run asked for nothing, or when it has been done: at the
// first call of malloc, or in the constructor, whichever comes first. Works under every
// libc.
void take_over_layout() noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_KEYED_HPP
