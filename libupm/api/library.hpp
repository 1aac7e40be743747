// SPDX-License-Identifier: MIT
//
// The one engine of the process: made at first use, kept until the end.
#ifndef UPM_API_LIBRARY_HPP
#define UPM_API_LIBRARY_HPP

#include "libupm/engine/engine.hpp"

#include <cerrno>
#include <pthread.h>

namespace upm {

// The process's engine. Reads the environment at the first call. With UPM_VERBOSE
// says on stderr, once per process, what it chose.
Engine &engine() noexcept;

// Returns true if the backend in use is the last resort, and nobody asked for that: a
// broker or a module may come later.
bool is_last_resort() noexcept;
// Looks once more for a backend if this is so. Returns true if there is one now. May take
// seconds, as the first look may.
bool look_again() noexcept;
// The same if it is time: after a second, then after pauses that double up to a minute.
bool look_again_by_now() noexcept;
// The engine for a call that is to merge, after such a look.
Engine &engine_for_work() noexcept;

// At the entry of every public function. A hook must not change errno under the
// program's feet, and a thread that is cancelled inside would have to unwind
// through noexcept functions, which ends the process.
class EntryGuard {
  public:
    EntryGuard() noexcept : errno_(errno) {
        ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state_);
    }
    EntryGuard(const EntryGuard &) = delete;
    EntryGuard &operator=(const EntryGuard &) = delete;
    ~EntryGuard() {
        ::pthread_setcancelstate(state_, nullptr);
        errno = errno_;
    }

  private:
    int errno_;
    int state_ = PTHREAD_CANCEL_ENABLE;
};

} // namespace upm

#endif // UPM_API_LIBRARY_HPP
