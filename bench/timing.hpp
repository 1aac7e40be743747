// SPDX-License-Identifier: MIT
//
// What a piece of work took, in real time and in the thread's processor time. In
// a machine that counts instructions as time, both are instructions.
#ifndef UPM_BENCH_TIMING_HPP
#define UPM_BENCH_TIMING_HPP

#include <cstdint>
#include <ctime>
#include <optional>

namespace upm::bench {

struct Timing {
    std::uint64_t wall_ns = 0;
    std::uint64_t cpu_ns = 0;
};

[[nodiscard]] inline std::uint64_t clock_ns(clockid_t clock) noexcept {
    timespec time{};
    (void)::clock_gettime(clock, &time);
    return (static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000) +
           static_cast<std::uint64_t>(time.tv_nsec);
}

[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept {
    return clock_ns(CLOCK_MONOTONIC);
}

class Stopwatch {
  public:
    [[nodiscard]] Timing elapsed() const noexcept {
        return {.wall_ns = monotonic_ns() - wall_,
                .cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_};
    }

    // Of CLOCK_MONOTONIC.
    [[nodiscard]] std::uint64_t started_ns() const noexcept { return wall_; }

  private:
    std::uint64_t wall_ = monotonic_ns();
    std::uint64_t cpu_ = clock_ns(CLOCK_THREAD_CPUTIME_ID);
};

// How fast this machine's clock runs against the battery-backed one, which in an
// emulated machine is the host's. A guest that boots on a busy host can misjudge
// the frequency of its clock, by a factor even.
class ClockCheck {
  public:
    ClockCheck();
    // Nothing if there is no such clock, or the time was too short to tell.
    [[nodiscard]] std::optional<double> rate() const;

  private:
    std::optional<std::uint64_t> seconds_;
    Stopwatch watch_;
};

} // namespace upm::bench

#endif // UPM_BENCH_TIMING_HPP
