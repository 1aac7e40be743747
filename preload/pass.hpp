// SPDX-License-Identifier: MIT
//
// One pass over what the hook looks after: trims the heap, then advises what is
// due, piece by piece.
#ifndef UPM_PRELOAD_PASS_HPP
#define UPM_PRELOAD_PASS_HPP

#include "preload/settings.hpp"

#include <upm/hook.h>

#include <cstddef>
#include <cstdint>

namespace upm::hook {

std::uint64_t now_ns() noexcept;

// CPU time that the process has used, without that of the calling thread.
std::uint64_t others_cpu_ns() noexcept;

struct Wanted {
    std::uint64_t mark = 0;     // blocks from this number on
    bool forced = false;        // also what is not due yet
    bool interruptible = false; // stop when the program gets busy
};

// Errors: that of the last call that failed. EOPNOTSUPP: there is no backend, and
// there will be none. EINTR: the program got busy, and the rest is still to be done.
// One pass runs at a time; others wait.
int run_pass(const Settings &settings, const Wanted &wanted, upm_counts &sum) noexcept;

// When the next pass is due, CLOCK_MONOTONIC; UINT64_MAX: when there are new blocks.
std::uint64_t next_pass_ns() noexcept;

// Whether the program did anything since the last pass began that left nothing for later.
bool worked_since_last_look() noexcept;

// Somebody else is about to advise this range.
void note_advised(void *addr, std::size_t len) noexcept;

// The child's own sums and times begin anew.
void pass_after_fork_child() noexcept;

void fill_pass_report(upm_hook_stats &report) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_PASS_HPP
