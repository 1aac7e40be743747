// SPDX-License-Identifier: MIT
//
// Large reads of glibc's streams into the hook's own blocks. What glibc does for one:
//
//   1. It takes what is in the stream's buffer.
//   2. It empties the buffer, and reads as many whole buffers as are left to read into the
//      program's memory, by one read(2).
//   3. It fills the buffer, and takes the rest from it.
//
// Here the read of step 2 is served, and the stream is left as glibc leaves it; step 3 is
// glibc's. That is done only with a plain stream of a file: no pushed back byte is in use
// (ungetc), nothing was written to it, it is not for wide characters, and its functions are
// those of files (not those of fmemopen, fopencookie, or fopen's mode "m"). All others are
// left to glibc, before anything was done. The layout of FILE is glibc's since 2.1, and is
// in its header.
#ifndef UPM_PRELOAD_STREAMS_HPP
#define UPM_PRELOAD_STREAMS_HPP

#include <cstddef>
#include <cstdio>

namespace upm::hook {

// Looks at glibc. Once, before streams are read; without it all is left to glibc.
// Pre: this is glibc.
void find_streams() noexcept;

// What fread, or fread_unlocked, would do. Pre: size * count does not overflow.
std::size_t read_stream(void *buffer, std::size_t size, std::size_t count, FILE *stream, bool lock);

} // namespace upm::hook

#endif // UPM_PRELOAD_STREAMS_HPP
