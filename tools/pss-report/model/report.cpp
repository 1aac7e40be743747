// SPDX-License-Identifier: MIT
#include "tools/pss-report/model/report.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unordered_map>

namespace upm::tool::pss {

namespace {

void add_member(Row &row, const Process &process) {
    ++row.processes;
    row.usage += process.usage;
    if (!process.kinds)
        return;
    if (!row.kinds)
        row.kinds.emplace();
    for (std::size_t i = 0; i < kKinds; ++i) {
        (*row.kinds)[i].usage += (*process.kinds)[i].usage;
        (*row.kinds)[i].mappings += (*process.kinds)[i].mappings;
        (*row.kinds)[i].size += (*process.kinds)[i].size;
    }
}

Row first_of(const Process &process, std::string key) {
    Row row;
    row.key = std::move(key);
    row.pid = process.pid;
    row.uid = process.uid;
    row.user = process.user;
    row.command = process.command;
    row.cgroup = process.cgroup;
    row.container = process.container;
    return row;
}

} // namespace

GroupBy parse_group(std::string_view text) {
    for (std::size_t i = 0; i < kGroupNames.size(); ++i)
        if (text == kGroupNames[i])
            return static_cast<GroupBy>(i);
    throw UsageError(
        fmt::format("--by: '{}' is not one of {}", printable(text), fmt::join(kGroupNames, ", ")));
}

std::string group_key(const Process &process, GroupBy by) {
    switch (by) {
    case GroupBy::kCgroup:
        return process.cgroup.empty() ? "(unknown)" : process.cgroup;
    case GroupBy::kContainer:
        return process.container.runtime.empty()
                   ? "(none)"
                   : process.container.runtime + "/" + process.container.id;
    case GroupBy::kPod:
        return process.container.pod.empty() ? "(none)" : process.container.pod;
    case GroupBy::kUser:
        return process.user;
    case GroupBy::kCommand:
        return process.command;
    case GroupBy::kProcess:
        break;
    }
    return std::to_string(process.pid);
}

Report make_report(const Snapshot &snapshot, GroupBy by) {
    Report report;
    report.by = by;
    std::unordered_map<std::string, std::size_t> places;
    for (const Process &process : snapshot.processes) {
        std::string key = group_key(process, by);
        const auto [place, added] = places.try_emplace(key, report.rows.size());
        if (added)
            report.rows.push_back(first_of(process, std::move(key)));
        add_member(report.rows[place->second], process);
        add_member(report.total, process);
    }
    report.total.key = "total";
    return report;
}

void check_field(std::string_view option, std::string_view name) {
    if (find_usage_field(name) != nullptr ||
        std::find(kTextFields.begin(), kTextFields.end(), name) != kTextFields.end())
        return;
    std::vector<std::string> names(kTextFields.begin(), kTextFields.end());
    for (const UsageField &field : kUsageFields)
        names.emplace_back(field.name);
    throw UsageError(
        fmt::format("{}: '{}' is not one of {}", option, printable(name), fmt::join(names, ", ")));
}

std::vector<std::string> default_fields(GroupBy by) {
    std::vector<std::string> fields;
    if (by == GroupBy::kProcess)
        fields = {"pid", "user"};
    else
        fields = {"processes"};
    for (const char *name :
         {"rss", "pss", "uss", "anon", "file", "shmem", "swap", "ksm", "upm", "saved"})
        fields.emplace_back(name);
    constexpr std::array<const char *, 6> kLast = {"command", "cgroup",  "container",
                                                   "user",    "command", "pod"};
    fields.emplace_back(kLast[static_cast<std::size_t>(by)]);
    return fields;
}

std::string text_of(const Row &row, std::string_view field) {
    if (field == "pid")
        return std::to_string(row.pid);
    if (field == "user")
        return row.user;
    if (field == "command")
        return row.command;
    if (field == "cgroup")
        return row.cgroup;
    if (field == "container")
        return row.container.id.empty()     ? "(none)"
               : row.container.name.empty() ? row.container.id
                                            : row.container.name;
    if (field == "pod")
        return row.container.pod.empty()        ? "(none)"
               : row.container.pod_name.empty() ? row.container.pod
                                                : row.container.pod_name;
    if (field == "runtime")
        return row.container.runtime;
    if (field == "processes")
        return std::to_string(row.processes);
    return {};
}

void sort_rows(std::vector<Row> &rows, std::string_view field, bool reverse) {
    const UsageField *const usage = find_usage_field(field);
    const auto number = [&](const Row &row) -> std::uint64_t {
        if (usage != nullptr)
            return row.usage.*usage->member;
        return field == "pid" ? static_cast<std::uint64_t>(row.pid) : row.processes;
    };
    const bool numeric = usage != nullptr || field == "processes";
    const bool by_pid = field == "pid";
    const auto before = [&](const Row &a, const Row &b) {
        if (numeric || by_pid) {
            const std::uint64_t x = number(a), y = number(b);
            if (x != y)
                return (x > y) == (numeric != reverse);
        } else if (const int order = text_of(a, field).compare(text_of(b, field)); order != 0) {
            return (order < 0) != reverse;
        }
        return a.key < b.key;
    };
    std::stable_sort(rows.begin(), rows.end(), before);
}

} // namespace upm::tool::pss
