// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"

#include <nlohmann/json.hpp>

namespace upm::bench {

nlohmann::json measure_runs(const Setup &setup, const std::function<nlohmann::json()> &run) {
    nlohmann::json row = {{"mib", setup.mib},
                          {"pages", setup.pages == Pages::kHuge ? "thp" : "4k"},
                          {"runs", nlohmann::json::array()}};
    for (int i = 0; i < setup.runs; ++i)
        row["runs"].push_back(run());
    return row;
}

} // namespace upm::bench
