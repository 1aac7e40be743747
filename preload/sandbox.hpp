// SPDX-License-Identifier: MIT
//
// Programs that lock themselves into a list of system calls (seccomp), and are killed for
// any other one: sshd, file, browsers. The hook's own are on no such list. So it stops
// working before the program locks itself in, and a program that starts locked in is
// tried out first.
//
// It ends its work as well before the program gives rights up that a thread has for itself, and
// where that may have no other thread, or is asked before files are opened.
#ifndef UPM_PRELOAD_SANDBOX_HPP
#define UPM_PRELOAD_SANDBOX_HPP

#include <climits>
#include <sys/types.h>

namespace upm::hook {

// Returns true if the hook may make the system calls that it needs. Makes them in a
// process of its own if some filter is in force. If not, the process counts as sandboxed.
// From the adviser's thread, once.
bool system_calls_allowed() noexcept;

// Returns true once the program has begun to lock itself in, or was found so. From then on the hook
// makes no system call but those that the program asks for.
bool sandboxed() noexcept;

// Returns true if some filter was in force when the adviser's thread began.
bool filtered() noexcept;

// Ends the hook's work for good, and waits until its thread has ended.
void end_work() noexcept;

// Who the adviser's thread is: it has ended before the program is locked in.
void note_thread(pid_t thread) noexcept;
// It could not be started.
inline constexpr pid_t kNoThread = INT_MAX;

} // namespace upm::hook

#endif // UPM_PRELOAD_SANDBOX_HPP
