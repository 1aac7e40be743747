// SPDX-License-Identifier: MIT
//
// An estimate as text: for people, and for programs.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_ESTIMATE_OUTPUT_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_ESTIMATE_OUTPUT_HPP

#include "tools/pss-report/model/estimate.hpp"
#include "tools/pss-report/show/output.hpp"

namespace upm::tool::pss {

Json to_json(const Estimate &estimate);
Table table_of(const Estimate &estimate, const Style &style);
// The lines below the table: the sums, and the extrapolation.
std::string summary(const Estimate &estimate, const Style &style);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_ESTIMATE_OUTPUT_HPP
