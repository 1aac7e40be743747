// SPDX-License-Identifier: MIT
//
// Snapshots side by side: under several labels ("without UPM", "with UPM"), over the
// number of containers, or over time.
#ifndef UPM_TOOLS_PSS_REPORT_SERIES_HPP
#define UPM_TOOLS_PSS_REPORT_SERIES_HPP

#include "tools/pss-report/collect.hpp"
#include "tools/pss-report/estimate.hpp"
#include "tools/pss-report/plot.hpp"
#include "tools/pss-report/report.hpp"

#include <string>
#include <vector>

namespace upm::pss {

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

struct SeriesOptions {
    GroupBy by = GroupBy::kProcess;
    Axis axis = Axis::kAuto;
    bool total = false;                   // sums, in place of means of the copies
    std::vector<std::string> fields = {}; // of kUsageFields; empty: rss, pss
    std::string title = {};
    Unit unit = Unit::kAuto;
};

// Adds a snapshot to the series of its tag, or of `label` if it has none. By container,
// processes in no container are left out.
void add_snapshot(std::vector<Series> &series, const std::string &label, Snapshot snapshot,
                  GroupBy by);

// All snapshots of the files, in their order; the label of those without a tag is the
// name of their file. Throws Failure.
std::vector<Series> read_series(const std::vector<std::string> &paths, const Filter &filter,
                                GroupBy by);

// Over n if a series has several of them, over time if one has several snapshots, else
// the labels.
Axis axis_of(const std::vector<Series> &series, Axis asked);

Figure figure_of(const std::vector<Series> &series, const SeriesOptions &options);
// The groups of one snapshot, at most `limit` of them.
Figure figure_of(const Report &report, std::size_t limit, const SeriesOptions &options);
// What merging saves for 2 to 64 groups. Throws Failure if there is one group only.
Figure figure_of(const Estimate &estimate, const SeriesOptions &options);

Table series_table(const std::vector<Series> &series, const SeriesOptions &options);
Json to_json(const std::vector<Series> &series, const SeriesOptions &options);

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_SERIES_HPP
