// SPDX-License-Identifier: MIT
//
// The cases. Each measures one setup and gives its row of the results: what was
// set up, and under "runs" what each run took.
#ifndef UPM_BENCH_CASES_HPP
#define UPM_BENCH_CASES_HPP

#include "bench/region.hpp"

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <functional>

namespace upm::bench {

struct Setup {
    std::size_t mib = 16;
    Pages pages = Pages::kSmall;
    Order order = Order::kSame; // of the second process, against the first
    unsigned batch_pages = 0;   // 0: as the module has it
    int runs = 1;
};

// Two processes of the same content. Steps of a run: the first one advises
// ("insert"), the second one does ("merge"), does it again ("again"), and takes
// it back ("unmerge"). Throws Error, also if less than 99 % of the pages merged.
nlohmann::json measure_advise(const Setup &setup);

// A file in memory of the content of a process. Steps: a plain read of it into fresh memory
// ("read"), the first load, which inserts ("first"), and one of known content ("known").
// Throws Error.
nlohmann::json measure_load(const Setup &setup);

// The same content under ksmd, which scans without a pause. Steps: until 99 % of
// what two processes can share is shared ("pair"), and of what a third one adds
// ("later"). In each run the steps of measure_advise() and measure_copy() come
// first, so that what disturbs the machine for a while disturbs both. Throws Error.
nlohmann::json measure_versus(const Setup &setup);

// Reading and copying memory that is larger than the caches. Steps: "memcpy",
// "memcmp"; "compare" and "zero", the loops that the module runs; "string_copy" and
// "string_clear", what the kernel copies and clears a page with.
nlohmann::json measure_copy(const Setup &setup);

// Page faults of a process on its own memory, each timed, while another one on another
// processor reads its own ("reading"), does nothing ("alone", before and after), inserts
// and merges. Throws Error.
nlohmann::json measure_neighbour(const Setup &setup);

// What all rows have: the memory that was set up, and what each call of `run` returned.
nlohmann::json measure_runs(const Setup &setup, const std::function<nlohmann::json()> &run);

// One run of measure_advise(), of measure_copy().
nlohmann::json run_advise(const Setup &setup);
nlohmann::json run_copy(const Setup &setup);

// The guest, or the host when it runs there.
nlohmann::json describe_machine();

} // namespace upm::bench

#endif // UPM_BENCH_CASES_HPP
