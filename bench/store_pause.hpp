// SPDX-License-Identifier: MIT
//
// How long a thread waits that writes to memory while it is advised.
#ifndef UPM_BENCH_STORE_PAUSE_HPP
#define UPM_BENCH_STORE_PAUSE_HPP

#include "bench/timing.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace upm::bench {

// In a process of its own, one thread advises `size` bytes while another stores to
// a page at a time, going round. Appends the ns of each store for which the thread
// gave its processor up, as one does that the kernel holds back: a copy of a page
// alone is no reason to. Gives what advising took. Throws Error.
Timing advise_under_writer(std::size_t size, std::vector<std::uint64_t> &waits);

} // namespace upm::bench

#endif // UPM_BENCH_STORE_PAUSE_HPP
