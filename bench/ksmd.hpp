// SPDX-License-Identifier: MIT
//
// The kernel's own scanner of the same memory.
#ifndef UPM_BENCH_KSMD_HPP
#define UPM_BENCH_KSMD_HPP

#include "bench/sysfs.hpp"

#include <cstdint>
#include <ctime>

namespace upm::bench {

// Sets KSM's knobs, and sets them back at the end.
class Ksmd {
  public:
    // Throws Error: this kernel has no KSM, or its knobs may not be set.
    Ksmd(std::uint64_t pages_to_scan, std::uint64_t sleep_millisecs);

    struct Scan {
        std::uint64_t pages = 0; // that were saved
        std::uint64_t wall_ns = 0;
        std::uint64_t cpu_ns = 0;
        std::uint64_t full_scans = 0;
    };
    // Scans until `wanted` pages are saved in all. Throws Error after half an hour.
    [[nodiscard]] Scan scan_until(std::uint64_t wanted) const;

    // Unmerges all that it merged.
    static void forget();

  private:
    clockid_t clock_; // of its processor time
    Knob stopped_;
    Knob pages_to_scan_;
    Knob sleep_;
};

} // namespace upm::bench

#endif // UPM_BENCH_KSMD_HPP
