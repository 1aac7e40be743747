// SPDX-License-Identifier: MIT
#include "tools/upm/show/report.hpp"

#include "tools/common/sizes.hpp"
#include "tools/common/table.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <cstring>
#include <dlfcn.h>
#include <fmt/format.h>

namespace upm::tool::cli {

namespace {

using Align = Table::Align;

double seconds(const Counts &counts) {
    return static_cast<double>(counts.nanoseconds) * 1e-9;
}

std::string number(std::uint64_t value) {
    return fmt::format("{}", value);
}

// An unused slot that a newer kernel fills still has to show up.
std::string reason_name(unsigned reason) {
    const std::string_view name = skip_name(reason);
    return name.empty() ? fmt::format("reason_{}", reason) : std::string(name);
}

// The columns of counts; which ones depends on the command, not on the values, so
// that two runs can be compared.
std::vector<Table::Column> count_columns(const Report &report) {
    if (report.unmerge())
        return {{"PAGES"}, {"UNMERGED"}, {"KEPT"}, {"SKIPPED"}, {"TIME"}};
    std::vector<Table::Column> columns = {{"PAGES"},   {"MERGED"},  {"INSERTED"},    {"ZERO"},
                                          {"ALREADY"}, {"SKIPPED"}, {"MERGED SIZE"}, {"TIME"}};
    return columns;
}

void append_counts(const Report &report, const Counts &counts, std::vector<std::string> &cells) {
    cells.push_back(number(counts.pages));
    if (report.unmerge()) {
        cells.push_back(number(counts.unmerged));
        cells.push_back(number(counts.kept));
        cells.push_back(number(counts.skipped_pages()));
    } else {
        cells.push_back(number(counts.merged));
        cells.push_back(number(counts.inserted));
        cells.push_back(number(counts.zero));
        cells.push_back(number(counts.already));
        cells.push_back(number(counts.skipped_pages()));
        cells.push_back(human_bytes(counts.bytes));
    }
    cells.push_back(human_seconds(seconds(counts)));
}

Table table(std::vector<Table::Column> first, const Report &report) {
    for (Table::Column &column : count_columns(report))
        first.push_back(std::move(column));
    return Table(std::move(first));
}

Counts total(const Report &report) {
    Counts sum;
    for (const TargetResult &target : report.targets)
        sum += target.counts;
    return sum;
}

std::string targets_text(const Report &report) {
    Table rows = table({{"PID"}, {"COMMAND", Align::kLeft}, {"MAPPINGS"}}, report);
    unsigned mappings = 0;
    for (const TargetResult &target : report.targets) {
        std::vector<std::string> cells = {number(static_cast<std::uint64_t>(target.pid)),
                                          printable(target.command), number(target.mappings)};
        append_counts(report, target.counts, cells);
        rows.add(std::move(cells));
        mappings += target.mappings;
    }
    if (report.targets.size() > 1) {
        std::vector<std::string> cells = {"", "total", number(mappings)};
        append_counts(report, total(report), cells);
        rows.add(std::move(cells));
    }
    return rows.text();
}

std::string details_text(const Report &report, const TargetResult &target) {
    Table rows = table({{"RANGE", Align::kLeft}, {"PERM", Align::kLeft}}, report);
    std::vector<std::string> names;
    for (const MappingResult &detail : target.details) {
        std::vector<std::string> cells = {format_range(detail.mapping.start, detail.mapping.end),
                                          detail.mapping.permissions};
        append_counts(report, detail.counts, cells);
        rows.add(std::move(cells));
        names.push_back(
            printable(detail.mapping.name) +
            (detail.error == 0 ? "" : fmt::format("  ({})", std::strerror(detail.error))));
    }
    // The names come last and unaligned: one long path must not widen the table.
    std::string result = fmt::format("\n{} {}\n", target.pid, printable(target.command));
    const std::string aligned = rows.text();
    std::string_view text = aligned;
    for (std::size_t line = 0; !text.empty(); ++line) {
        const std::size_t end = text.find('\n');
        result += text.substr(0, end);
        if (line > 0 && !names[line - 1].empty())
            result += "  " + names[line - 1];
        result += '\n';
        text.remove_prefix(end + 1);
    }
    return result;
}

std::string reasons_text(const Counts &counts) {
    Table rows({{"REASON", Align::kLeft}, {"PAGES"}});
    bool any = false;
    for (unsigned reason = 0; reason < UPM_SKIPPED_NR; ++reason) {
        if (counts.skipped[reason] == 0)
            continue;
        rows.add({reason_name(reason), number(counts.skipped[reason])});
        any = true;
    }
    return any ? "\nskipped pages\n" + rows.text() : "";
}

// "left out: 12 shared, 3 special mappings; 1 mapping vanished"
std::string left_out_text(const Report &report) {
    std::array<std::uint64_t, kLeftOutNames.size()> sums = {};
    std::uint64_t vanished = 0;
    for (const TargetResult &target : report.targets) {
        for (std::size_t i = 0; i < sums.size(); ++i)
            sums.at(i) += target.left_out.at(i);
        vanished += target.vanished;
    }
    std::string text;
    for (std::size_t i = 0; i < sums.size(); ++i)
        if (sums.at(i) != 0)
            text +=
                fmt::format("{}{} {}", text.empty() ? "" : ", ", sums.at(i), kLeftOutNames.at(i));
    if (!text.empty())
        text = "\nmappings left out: " + text + "\n";
    if (vanished != 0)
        text += fmt::format("mappings that vanished meanwhile: {}\n", vanished);
    if (report.vanished_processes != 0)
        text += fmt::format("processes that ended meanwhile: {}\n", report.vanished_processes);
    return text;
}

Json left_out_json(const TargetResult &target) {
    Json json = Json::object();
    for (std::size_t i = 0; i < kLeftOutNames.size(); ++i)
        json[kLeftOutNames.at(i)] = target.left_out.at(i);
    return json;
}

// "EPERM"; empty where the C library has no names: glibc before 2.32.
std::string error_name(int error) {
    using Function = const char *(int);
    static auto *const name =
        reinterpret_cast<Function *>(::dlsym(RTLD_DEFAULT, "strerrorname_np"));
    const char *const text = name != nullptr ? name(error) : nullptr;
    return text != nullptr ? text : "";
}

Json failure_json(int pid, const TargetFailure &failure) {
    Json json = {{"pid", pid}, {"range", nullptr}};
    if (!failure.range.empty())
        json["range"] = failure.range;
    json["errno"] = error_name(failure.error);
    json["message"] = failure.what;
    return json;
}

Json target_json(const Report &report, const TargetResult &target) {
    Json json = {{"pid", target.pid},
                 {"command", target.command},
                 {"mappings", target.mappings},
                 {"vanished", target.vanished},
                 {"left_out", left_out_json(target)},
                 {"counts", counts_json(target.counts)}};
    if (report.verbose) {
        Json details = Json::array();
        for (const MappingResult &detail : target.details)
            details.push_back({{"range", format_range(detail.mapping.start, detail.mapping.end)},
                               {"permissions", detail.mapping.permissions},
                               {"name", detail.mapping.name},
                               {"vanished", detail.error == ENOMEM},
                               {"counts", counts_json(detail.counts)}});
        json["details"] = std::move(details);
    }
    return json;
}

} // namespace

bool Report::failed() const {
    return std::any_of(targets.begin(), targets.end(),
                       [](const TargetResult &target) { return !target.failures.empty(); });
}

std::string format_range(std::uint64_t start, std::uint64_t end) {
    return fmt::format("{:x}-{:x}", start, end);
}

Json counts_json(const Counts &counts) {
    Json skipped = Json::object();
    for (unsigned reason = 0; reason < UPM_SKIPPED_NR; ++reason)
        if (counts.skipped[reason] != 0)
            skipped[reason_name(reason)] = counts.skipped[reason];
    return {
        {"pages", counts.pages},       {"merged", counts.merged},   {"inserted", counts.inserted},
        {"zero", counts.zero},         {"already", counts.already}, {"queued", counts.queued},
        {"unmerged", counts.unmerged}, {"kept", counts.kept},       {"skipped", skipped},
        {"bytes", counts.bytes},       {"seconds", seconds(counts)}};
}

Json report_json(const Report &report) {
    Json targets = Json::array();
    Json errors = Json::array();
    for (const TargetResult &target : report.targets) {
        targets.push_back(target_json(report, target));
        for (const TargetFailure &failure : target.failures)
            errors.push_back(failure_json(target.pid, failure));
    }
    return {{"command", report.command},
            {"backend", report.backend},
            {"dry_run", report.dry_run},
            {"counts", counts_json(total(report))},
            {"vanished_processes", report.vanished_processes},
            {"targets", std::move(targets)},
            {"errors", std::move(errors)}};
}

std::string report_text(const Report &report) {
    std::string text = targets_text(report);
    if (report.verbose)
        for (const TargetResult &target : report.targets)
            text += details_text(report, target);
    return text + reasons_text(total(report)) + left_out_text(report);
}

} // namespace upm::tool::cli
