// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/ksmd.hpp"
#include "bench/process.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace upm::bench {

namespace {

constexpr std::uint64_t kPagesToScan = 100'000; // of ksmd: as fast as it can

nlohmann::json scan(const Ksmd &ksmd, std::uint64_t wanted) {
    const Ksmd::Scan done = ksmd.scan_until(wanted);
    return {{"pages", done.pages},
            {"wall_ns", done.wall_ns},
            {"cpu_ns", done.cpu_ns},
            {"full_scans", done.full_scans}};
}

void run_ksm(const Ksmd &ksmd, const Setup &setup, nlohmann::json &row) {
    const std::uint64_t pages = setup.mib * kMib / kPage;
    {
        std::vector<std::unique_ptr<Process>> processes;
        const auto add = [&] {
            processes.push_back(
                std::make_unique<Process>(setup.mib * kMib, setup.pages, Order::kSame));
            processes.back()->ask(Action::kMarkForKsm);
        };
        add();
        add();
        row["pair"] = scan(ksmd, pages * 99 / 100);
        add();
        row["later"] = scan(ksmd, pages * 99 / 50);
    }
    Ksmd::forget();
}

} // namespace

nlohmann::json measure_versus(const Setup &setup) {
    const Ksmd ksmd(kPagesToScan, 0);
    nlohmann::json row = measure_runs(setup, [&] {
        nlohmann::json run = run_advise(setup);
        run.update(run_copy(setup));
        run_ksm(ksmd, setup, run);
        return run;
    });
    row["pages_to_scan"] = kPagesToScan;
    row["sleep_millisecs"] = 0;
    return row;
}

} // namespace upm::bench
