// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/process.hpp"
#include "bench/sysfs.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace upm::bench {

namespace {

const std::string kBatchPages = std::string(kUpmFolder) + "batch_pages";

nlohmann::json step_row(const Reply &reply) {
    const Counts &counts = reply.counts;
    nlohmann::json row = {{"pages", counts.pages},
                          {"wall_ns", reply.timing.wall_ns},
                          {"cpu_ns", reply.timing.cpu_ns},
                          {"module", module_counters()}};
    const std::uint64_t skipped = counts.skipped_pages();
    if (skipped != 0)
        row["skipped"] = skipped;
    return row;
}

// One step: what it took, and that `field` counts nearly all of its pages.
nlohmann::json step(Process &process, Action action, std::uint64_t upm_counts::*field) {
    reset_counters();
    const Reply reply = process.ask(action);
    const std::uint64_t done = reply.counts.*field;
    if (done * 100 < reply.counts.pages * 99)
        throw Error(
            fmt::format("only {} of {} pages became what they should", done, reply.counts.pages));
    return step_row(reply);
}

} // namespace

nlohmann::json run_advise(const Setup &setup) {
    const std::size_t bytes = setup.mib * kMib;
    nlohmann::json row;
    {
        Process first(bytes, setup.pages, Order::kSame);
        row["insert"] = step(first, Action::kAdvise, &upm_counts::inserted);
        Process second(bytes, setup.pages, setup.order);
        row["merge"] = step(second, Action::kAdvise, &upm_counts::merged);
        row["again"] = step(second, Action::kAdvise, &upm_counts::already);
        row["unmerge"] = step(second, Action::kUnmerge, &upm_counts::unmerged);
        first.ask(Action::kVerify);
        second.ask(Action::kVerify);
    }
    forget_shared_pages();
    return row;
}

nlohmann::json measure_advise(const Setup &setup) {
    std::optional<Knob> knob;
    if (setup.batch_pages != 0)
        knob.emplace(kBatchPages, setup.batch_pages);
    nlohmann::json row = measure_runs(setup, [&] { return run_advise(setup); });
    row["order"] = setup.order == Order::kSame ? "same" : "shuffled";
    row["batch_pages"] = read_number(kBatchPages);
    return row;
}

} // namespace upm::bench
