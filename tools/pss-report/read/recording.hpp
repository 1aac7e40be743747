// SPDX-License-Identifier: MIT
//
// Recordings: files of snapshots, one JSON document on each line, as --json --by process
// prints them. What is read back may come from elsewhere, and is checked.
#ifndef UPM_TOOLS_PSS_REPORT_READ_RECORDING_HPP
#define UPM_TOOLS_PSS_REPORT_READ_RECORDING_HPP

#include "tools/common/json.hpp"
#include "tools/pss-report/model/filter.hpp"
#include "tools/pss-report/model/series.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

// At least one. Throws Failure that says which line is wrong, and how.
std::vector<Snapshot> read_recording(const std::string &path);
std::vector<Snapshot> parse_recording(std::string_view text, const std::string &path);

// Throws std::exception for what is no report by process.
Snapshot snapshot_from_json(const Json &json);

// All snapshots of the files, in their order. The label of those without a tag is the name
// of their file, or the same for all where each file has an N of its own. Throws Failure.
std::vector<Series> read_series(const std::vector<std::string> &paths, const Filter &filter,
                                GroupBy by);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_RECORDING_HPP
