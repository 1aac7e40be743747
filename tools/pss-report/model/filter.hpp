// SPDX-License-Identifier: MIT
//
// Which processes a report is about.
#ifndef UPM_TOOLS_PSS_REPORT_MODEL_FILTER_HPP
#define UPM_TOOLS_PSS_REPORT_MODEL_FILTER_HPP

#include "tools/pss-report/model/snapshot.hpp"

#include <set>
#include <string>
#include <vector>

namespace upm::tool::pss {

// A process is taken if it matches each list that is not empty, and in it any entry.
struct Filter {
    std::set<int> pids = {};
    std::vector<std::string> names = {};   // shell patterns, of the command name
    std::vector<std::string> cgroups = {}; // shell patterns, of the path or of one above it
    std::vector<std::string> users = {};   // names or numbers
    std::set<int> without = {};            // never these
};

// Returns true if the filter takes the process; `without` is not looked at.
bool wanted(const Filter &filter, const Process &process);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_MODEL_FILTER_HPP
