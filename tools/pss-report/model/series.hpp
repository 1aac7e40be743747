// SPDX-License-Identifier: MIT
//
// Snapshots side by side: under several labels ("without UPM", "with UPM"), over the
// number of containers, or over time.
#ifndef UPM_TOOLS_PSS_REPORT_MODEL_SERIES_HPP
#define UPM_TOOLS_PSS_REPORT_MODEL_SERIES_HPP

#include "tools/pss-report/model/report.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

// What is left of a snapshot in a series.
struct Sample {
    double time = 0;     // since the epoch
    std::int64_t n = -1; // --n; -1: not said
    double copies = 0;   // n, or the number of groups
    Usage usage;         // of all processes
};

struct Series {
    std::string label;
    std::vector<Sample> samples = {}; // in the order in which they were taken
    Snapshot last = {};               // the whole of the last one
};

enum class Axis : std::uint8_t { kAuto, kLabel, kN, kTime };
// Throws UsageError.
Axis parse_axis(std::string_view text);
const char *name_of(Axis axis);

// Adds a snapshot to the series of its tag, or of `label` if it has none. By container,
// processes in no container are left out.
void add_snapshot(std::vector<Series> &series, const std::string &label, Snapshot snapshot,
                  GroupBy by);

// Over n if a series has several of them, over time if one has several snapshots, else
// the labels.
Axis axis_of(const std::vector<Series> &series, Axis asked);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_MODEL_SERIES_HPP
