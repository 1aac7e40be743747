// SPDX-License-Identifier: MIT
//
// Work that runs on a thread of the library.
//
// A job is finished by its owner exactly once (async_release). Jobs of the C
// interface are found by their descriptor; those of the C++ interface are not, so
// that neither can finish the other's.
#ifndef UPM_API_ASYNC_HPP
#define UPM_API_ASYNC_HPP

#include "libupm/engine/engine.hpp"

namespace upm {

struct Job;

// Queues a request. Post: 0, and `job` and its eventfd `fd`, or -errno: that of
// Engine::prepare, EMFILE, ENFILE, ENOMEM, EAGAIN (no thread).
int async_start(Engine &engine, const Request &request, bool by_fd, Job *&job, int &fd) noexcept;

bool async_done(const Job &job) noexcept;

// Blocks until the work is done and returns its result; may be called again.
int async_wait(const Job &job, upm_counts &counts) noexcept;

// Waits, closes the eventfd and frees the job.
void async_release(Job *job) noexcept;

// Takes the job of a descriptor away from the C interface; nullptr: there is none.
Job *async_claim(int fd) noexcept;

// Around fork. In the child, what had not ended is cancelled (-ECANCELED).
void async_before_fork() noexcept;
void async_after_fork_parent() noexcept;
void async_after_fork_child() noexcept;

} // namespace upm

#endif // UPM_API_ASYNC_HPP
