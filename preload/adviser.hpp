// SPDX-License-Identifier: MIT
//
// Decides when the hook's memory is advised, and does it: in a thread of its own
// when the program is idle or a signal comes, in the caller's on request.
#ifndef UPM_PRELOAD_ADVISER_HPP
#define UPM_PRELOAD_ADVISER_HPP

#include "preload/settings.hpp"

#include <upm/hook.h>

#include <cstdint>

namespace upm::hook {

// The signal of UPM_TRIGGER=signal is SIGRTMAX minus this: neither POSIX nor any
// common runtime gives it a meaning.
inline constexpr int kSignalBelowMax = 2;

// Once, before the first block.
void start_adviser(const Settings &settings) noexcept;

// There is a new block: the thread is started, or woken, if need be. False: no
// backend was found, so that there is no use in further blocks. An allocator may
// hold its locks while it calls mmap: to start a thread then, which allocates, would
// never end; may_start is false there.
bool notice_block(bool may_start) noexcept;

// Advises now, in the calling thread, blocks numbered `mark` and above. 0 or -errno.
int advise_now(std::uint64_t mark, upm_counts &counts) noexcept;

// Memory that showed shared content is not there any more: whoever keeps that content is
// told soon. Waits for nobody.
void notice_unmapped() noexcept;

// There is a part that came too late to share on load (late.hpp).
void notice_late() noexcept;

// The calling thread is about to end, and may be the program's first one.
void notice_exit() noexcept;

// It looks what there is to do.
void wake_adviser() noexcept;

void fill_report(upm_hook_stats &report) noexcept;

// Returns true if there was no backend that takes anything of this program.
bool gave_up() noexcept;

// Returns true if the process consists of one thread of the program's and the hook's.
bool has_one_thread_of_its_own() noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_ADVISER_HPP
