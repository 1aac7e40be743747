// SPDX-License-Identifier: MIT
//
// The results of advise and unmerge, as tables and as JSON (see upm(1)).
#ifndef UPM_TOOLS_UPM_SHOW_REPORT_HPP
#define UPM_TOOLS_UPM_SHOW_REPORT_HPP

#include "tools/common/json.hpp"
#include "tools/upm/model/selection.hpp"

#include <string>
#include <upm/upm.hpp>
#include <vector>

namespace upm::tool::cli {

// What went wrong with a target.
struct TargetFailure {
    std::string what;  // one line: operation, address range and reason
    std::string range; // "7f00-7f01", or empty
    int error = 0;     // positive errno
};

struct MappingResult {
    Mapping mapping;
    Counts counts;
    int error = 0; // positive errno; ENOMEM: it vanished
};

struct TargetResult {
    int pid = 0;
    std::string command;
    Counts counts;
    unsigned mappings = 0; // worked on
    unsigned vanished = 0; // unmapped before the library got there
    std::array<unsigned, kLeftOutNames.size()> left_out = {};
    std::vector<MappingResult> details; // --verbose
    std::vector<TargetFailure> failures;
};

struct Report {
    const char *command = "advise"; // or "unmerge"
    std::string backend;
    bool dry_run = false;
    bool verbose = false;
    unsigned vanished_processes = 0;
    std::vector<TargetResult> targets;

    [[nodiscard]] bool unmerge() const { return std::string_view(command) == "unmerge"; }
    [[nodiscard]] bool failed() const;
};

Json counts_json(const Counts &counts);
Json report_json(const Report &report);
// Without the failures, which belong on stderr.
std::string report_text(const Report &report);

std::string format_range(std::uint64_t start, std::uint64_t end);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_SHOW_REPORT_HPP
