// SPDX-License-Identifier: MIT
//
// What tests may tell the fake driver, and ask it. Found by dlsym, like the rest.
#ifndef UPM_CUDA_FAKE_CONTROL_HPP
#define UPM_CUDA_FAKE_CONTROL_HPP

#include <cstddef>

extern "C" {

// NOLINTNEXTLINE(readability-identifier-naming): of C
struct upm_fake_stats {
    std::size_t bytes;   // of device memory that this process created and still has
    std::size_t handles; // not released
    std::size_t mappings;
    std::size_t reservations;
    std::size_t calls; // since the start, that went through fault injection
};

// Words "name=value", separated by blanks; returns 0, or -1 for one that is not
// understood. The same text is read from UPM_CUDA_FAKE by cuInit.
//   granularity=BYTES   smallest unit (2097152, also for 0)
//   memory=BYTES        of the device, for this process (0: no limit)
//   mappings=N          that may exist at once (0: no limit)
//   latency_us=N        each call takes this much longer
//   task_us=N           each piece of work on a stream starts this much later (50)
//   fail=CALL:N:STATUS  the Nth CALL from now (*: any) does nothing and returns STATUS
//   kill=CALL:N[:PID]   SIGKILL for PID (or this process) just before the Nth CALL
//   reset=1             no faults, limits or latencies from now on
int upm_fake_configure(const char *text);

void upm_fake_get_stats(struct upm_fake_stats *stats);
}

#endif // UPM_CUDA_FAKE_CONTROL_HPP
