// SPDX-License-Identifier: MIT
//
// Recordings: files of snapshots, one JSON document on each line, as --json --by process
// prints them. What is read back may come from elsewhere, and is checked.
#ifndef UPM_TOOLS_PSS_REPORT_RECORDING_HPP
#define UPM_TOOLS_PSS_REPORT_RECORDING_HPP

#include "tools/pss-report/model.hpp"
#include "tools/pss-report/output.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace upm::pss {

// Adds one line to the file, which is made if it is not there. Throws Failure.
void record(const std::string &path, const Snapshot &snapshot);

// At least one. Throws Failure that says which line is wrong, and how.
std::vector<Snapshot> read_recording(const std::string &path);
std::vector<Snapshot> parse_recording(std::string_view text, const std::string &path);

// Throws std::exception for what is no report by process.
Snapshot snapshot_from_json(const Json &json);

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_RECORDING_HPP
