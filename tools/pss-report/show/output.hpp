// SPDX-License-Identifier: MIT
//
// A report as text: for people, and for programs.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_OUTPUT_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_OUTPUT_HPP

#include "tools/common/json.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/table.hpp"
#include "tools/pss-report/model/report.hpp"

#include <string>
#include <vector>

namespace upm::tool::pss {

struct Style {
    Unit unit = Unit::kAuto;
    bool color = false;
    std::size_t width = 0; // columns of the terminal; 0: no limit
    std::size_t limit = 0; // rows; 0: all
    // A column whose title gets an arrow: up if `reverse`.
    std::string sorted_by = {};
    bool reverse = false;
};

Table table_of(const Report &report, const Snapshot &snapshot,
               const std::vector<std::string> &fields, const Style &style);
// The same as text, and the notes.
std::string to_table(const Report &report, const Snapshot &snapshot,
                     const std::vector<std::string> &fields, const Style &style);
// The lines below a table: who is missing, and why. Empty if nobody is.
std::string notes(const Snapshot &snapshot, const Style &style);

Json to_json(const Report &report, const Snapshot &snapshot, std::size_t limit = 0);
std::string to_csv(const Report &report, const Snapshot &snapshot, std::size_t limit = 0);
std::string to_prometheus(const Report &report, const Snapshot &snapshot);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_OUTPUT_HPP
