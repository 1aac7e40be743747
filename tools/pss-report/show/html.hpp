// SPDX-License-Identifier: MIT
//
// Reports as pages of HTML.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_HTML_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_HTML_HPP

#include "tools/pss-report/show/series_output.hpp"

#include <string>

namespace upm::tool::pss {

// The processes or groups of one snapshot, and what an estimate says of them (null: none
// was made). Rows are in the order of the report; at most `limit` of them, 0: all.
std::string html_report(const Report &report, const Snapshot &snapshot, const Estimate *estimate,
                        const SeriesOptions &options, std::size_t limit);

// Series side by side.
std::string html_report(const std::vector<Series> &series, const SeriesOptions &options,
                        std::size_t limit);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_HTML_HPP
