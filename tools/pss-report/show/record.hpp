// SPDX-License-Identifier: MIT
//
// Recordings: files with one snapshot in each line, which read/recording.hpp reads.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_RECORD_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_RECORD_HPP

#include "tools/pss-report/model/snapshot.hpp"

#include <string>

namespace upm::tool::pss {

// Adds one line to the file, which is made if it is not there. Throws Failure.
void record(const std::string &path, const Snapshot &snapshot);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_RECORD_HPP
