// SPDX-License-Identifier: MIT
//
// The rows of a report: processes, or groups of them, in order.
#ifndef UPM_TOOLS_PSS_REPORT_MODEL_REPORT_HPP
#define UPM_TOOLS_PSS_REPORT_MODEL_REPORT_HPP

#include "tools/pss-report/model/snapshot.hpp"

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

enum class GroupBy : std::uint8_t { kProcess, kCgroup, kContainer, kUser, kCommand, kPod };
inline constexpr std::array<const char *, 6> kGroupNames = {"process", "cgroup",  "container",
                                                            "user",    "command", "pod"};
// Throws UsageError.
GroupBy parse_group(std::string_view text);
inline const char *name_of(GroupBy by) {
    return kGroupNames[static_cast<std::size_t>(by)];
}

struct Row {
    std::string key; // what the members have in common; any bytes
    // Of the first member; those that are not common to all are for --by process only.
    int pid = 0;
    std::uint32_t uid = 0;
    std::string user;
    std::string command;
    std::string cgroup;
    Container container;
    std::uint64_t processes = 0;
    Usage usage;
    std::optional<std::array<KindUsage, kKinds>> kinds;
};

struct Report {
    GroupBy by = GroupBy::kProcess;
    std::vector<Row> rows;
    Row total; // of all rows, those behind --limit too
};

// The key of a process in a grouping. Processes in no container have the key
// "(none)", which no container's can be.
std::string group_key(const Process &process, GroupBy by);

Report make_report(const Snapshot &snapshot, GroupBy by);

// Names of columns that are not in kUsageFields.
inline constexpr std::array<const char *, 8> kTextFields = {
    "pid", "user", "command", "cgroup", "container", "runtime", "pod", "processes"};

// Whether `name` is a column. Throws UsageError that lists them otherwise.
void check_field(std::string_view option, std::string_view name);

// The columns that a grouping has by default.
std::vector<std::string> default_fields(GroupBy by);

// A text column's value. Empty for a name of kUsageFields.
std::string text_of(const Row &row, std::string_view field);

// Numbers from the largest on, texts from A on; `reverse` turns that round. Equal rows
// stay in the order of their keys.
void sort_rows(std::vector<Row> &rows, std::string_view field, bool reverse);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_MODEL_REPORT_HPP
