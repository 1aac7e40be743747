// SPDX-License-Identifier: MIT
//
// Reads of files into the hook's own large blocks: what the program reads comes to share
// while it is read (upm_load(3)). A read that cannot be served so is left to the real
// function, before anything was done.
#ifndef UPM_PRELOAD_LOADS_HPP
#define UPM_PRELOAD_LOADS_HPP

#include <cstddef>
#include <sys/types.h>
#include <upm/hook.h>

namespace upm::hook {

// From now on, or no more (SIZE_MAX): reads of so many bytes and above. Once a backend is
// known that shares on load.
void set_load_threshold(std::size_t bytes) noexcept;

// Returns true if a read of that size may be one to serve. Costs a comparison.
bool may_load(std::size_t len) noexcept;

// Reads what pread(2) would. False: nothing was done, and the real function is to serve.
bool load_at(int fd, off_t offset, void *buffer, std::size_t len, ssize_t &got) noexcept;

// The same from the file's position, which moves on, as with read(2).
bool load_here(int fd, void *buffer, std::size_t len, ssize_t &got) noexcept;

// The child of a fork has connections of its own.
void loads_after_fork_child() noexcept;

// The sums of what was read so.
void fill_load_report(upm_hook_stats &report) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_LOADS_HPP
