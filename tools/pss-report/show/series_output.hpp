// SPDX-License-Identifier: MIT
//
// Series as figures and tables.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_SERIES_OUTPUT_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_SERIES_OUTPUT_HPP

#include "tools/common/json.hpp"
#include "tools/common/table.hpp"
#include "tools/pss-report/model/estimate.hpp"
#include "tools/pss-report/model/series.hpp"
#include "tools/pss-report/show/plot.hpp"

#include <string>
#include <vector>

namespace upm::tool::pss {

struct SeriesOptions {
    GroupBy by = GroupBy::kProcess;
    Axis axis = Axis::kAuto;
    bool total = false;                   // sums, in place of means of the copies
    std::vector<std::string> fields = {}; // of kUsageFields; empty: rss, pss; over n: pss
    std::string title = {};
    Unit unit = Unit::kAuto;
};

Figure figure_of(const std::vector<Series> &series, const SeriesOptions &options);
// The groups of one snapshot, at most `limit` of them.
Figure figure_of(const Report &report, std::size_t limit, const SeriesOptions &options);
// What merging saves for 2 to 64 groups. Throws Failure if there is one group only.
Figure figure_of(const Estimate &estimate, const SeriesOptions &options);

Table series_table(const std::vector<Series> &series, const SeriesOptions &options);
Json to_json(const std::vector<Series> &series, const SeriesOptions &options);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_SERIES_OUTPUT_HPP
