// SPDX-License-Identifier: MIT
//
// Figures and pages that another program describes as JSON (--draw): measurements that are
// not of memory look like those that are, and are drawn by the same code.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_DOCUMENT_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_DOCUMENT_HPP

#include "tools/common/json.hpp"
#include "tools/pss-report/show/plot.hpp"

#include <string>

namespace upm::tool::pss {

// The form of both is in pss-report(1). Both throw Failure for what has another form.
Figure figure_from_json(const Json &json);
// HTML of {"title", "facts", "parts"}.
std::string page_from_json(const Json &json);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_DOCUMENT_HPP
