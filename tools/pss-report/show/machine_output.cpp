// SPDX-License-Identifier: MIT
//
// Reports for programs: JSON, CSV, Prometheus.
#include "tools/pss-report/show/output.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

Json usage_json(const Usage &usage) {
    Json json = Json::object();
    for (const UsageField &field : kUsageFields)
        json[field.name] = usage.*field.member;
    return json;
}

Json kinds_json(const std::array<KindUsage, kKinds> &kinds) {
    Json json = Json::object();
    for (std::size_t i = 0; i < kKinds; ++i) {
        if (kinds[i].mappings == 0)
            continue;
        Json kind = {{"mappings", kinds[i].mappings}, {"size", kinds[i].size}};
        kind["usage"] = usage_json(kinds[i].usage);
        json[kKindNames[i]] = std::move(kind);
    }
    return json;
}

// What nobody tells is left out, so that most documents are as they were.
Json container_json(const Container &container) {
    Json json = {{"runtime", container.runtime}, {"id", container.id}};
    if (!container.name.empty())
        json["name"] = container.name;
    if (!container.pod.empty())
        json["pod"] = container.pod;
    if (!container.pod_name.empty())
        json["pod_name"] = container.pod_name;
    return json;
}

Json row_json(const Row &row, GroupBy by) {
    Json json = Json::object();
    json["key"] = row.key;
    json["processes"] = row.processes;
    if (by == GroupBy::kProcess) {
        json["pid"] = row.pid;
        json["uid"] = row.uid;
        json["command"] = row.command;
    }
    if (by == GroupBy::kProcess || by == GroupBy::kUser)
        json["user"] = row.user;
    if (by == GroupBy::kProcess || by == GroupBy::kCgroup)
        json["cgroup"] = row.cgroup;
    if (by == GroupBy::kProcess || by == GroupBy::kContainer)
        json["container"] = container_json(row.container);
    if (by == GroupBy::kPod)
        json["pod"] = {{"uid", row.container.pod}, {"name", row.container.pod_name}};
    json["usage"] = usage_json(row.usage);
    if (row.kinds)
        json["kinds"] = kinds_json(*row.kinds);
    return json;
}

Json skipped_json(const Skipped &skipped) {
    Json unreadable = Json::array();
    for (const Unreadable &process : skipped.unreadable)
        unreadable.push_back({{"pid", process.pid},
                              {"command", process.command},
                              {"reason", process.reason},
                              {"rss", process.rss}});
    return {{"kernel_threads", skipped.kernel_threads},
            {"zombies", skipped.zombies},
            {"vanished", skipped.vanished},
            {"filtered", skipped.filtered},
            {"unreadable", std::move(unreadable)}};
}

Json system_json(const System &system) {
    return {{"mem_total", system.mem_total},
            {"mem_free", system.mem_free},
            {"mem_available", system.mem_available},
            {"swap_total", system.swap_total},
            {"swap_free", system.swap_free},
            {"ksm", system.ksm},
            {"upm", system.upm}};
}

std::string csv_field(const std::string &text) {
    if (text.find_first_of(",\"\n\r") == std::string::npos)
        return utf8(text);
    std::string out = "\"";
    for (const char c : utf8(text))
        out += c == '"' ? "\"\"" : std::string(1, c);
    return out + "\"";
}

std::string labels_of(const Row &row, GroupBy by) {
    switch (by) {
    case GroupBy::kProcess:
        return fmt::format(R"(pid="{}",user="{}",command="{}")", row.pid,
                           prometheus_label(row.user), prometheus_label(row.command));
    case GroupBy::kContainer:
        return fmt::format(R"(runtime="{}",container="{}")",
                           prometheus_label(row.container.runtime),
                           prometheus_label(row.container.id));
    default:
        return fmt::format("{}=\"{}\"", name_of(by), prometheus_label(row.key));
    }
}

void add_metric(std::string &out, std::string_view name, std::string_view help,
                const std::vector<std::pair<std::string, double>> &samples) {
    out += fmt::format("# HELP pss_report_{0} {1}\n# TYPE pss_report_{0} gauge\n", name, help);
    for (const auto &[labels, value] : samples)
        out += labels.empty() ? fmt::format("pss_report_{} {}\n", name, value)
                              : fmt::format("pss_report_{}{{{}}} {}\n", name, labels, value);
}

std::size_t shown_rows(const Report &report, std::size_t limit) {
    return limit == 0 ? report.rows.size() : std::min(limit, report.rows.size());
}

} // namespace

Json to_json(const Report &report, const Snapshot &snapshot, std::size_t limit) {
    Json json = Json::object();
    json["tool"] = "pss-report " UPM_VERSION;
    json["schema"] = 1;
    json["time"] = snapshot.time;
    json["unix_time"] = snapshot.unix_time;
    json["host"] = snapshot.host;
    json["kernel"] = snapshot.kernel;
    if (!snapshot.tag.empty())
        json["tag"] = snapshot.tag;
    if (snapshot.n >= 0)
        json["n"] = snapshot.n;
    json["page_size"] = snapshot.page_size;
    json["source"] = snapshot.source;
    json["exact"] = snapshot.exact;
    json["seconds"] = snapshot.seconds;
    json["system"] = system_json(snapshot.system);
    json["by"] = name_of(report.by);
    Json rows = Json::array();
    for (std::size_t i = 0; i < shown_rows(report, limit); ++i)
        rows.push_back(row_json(report.rows[i], report.by));
    json["rows"] = std::move(rows);
    json["total"] = {{"rows", report.rows.size()}, {"processes", report.total.processes}};
    json["total"]["usage"] = usage_json(report.total.usage);
    if (report.total.kinds)
        json["total"]["kinds"] = kinds_json(*report.total.kinds);
    json["skipped"] = skipped_json(snapshot.skipped);
    return json;
}

std::string to_csv(const Report &report, const Snapshot &snapshot, std::size_t limit) {
    std::string out = "time,by,key,pid,user,command,cgroup,runtime,container,processes,kind";
    for (const UsageField &field : kUsageFields)
        out += fmt::format(",{}", field.name);
    out += "\n";
    const bool process = report.by == GroupBy::kProcess;
    const auto add = [&](const Row &row, const char *kind, std::uint64_t processes,
                         const Usage &usage) {
        out += fmt::format(
            "{},{},{},{},{},{},{},{},{},{},{}", snapshot.time, name_of(report.by),
            csv_field(row.key), process ? std::to_string(row.pid) : "",
            process || report.by == GroupBy::kUser ? csv_field(row.user) : "",
            process || report.by == GroupBy::kCommand ? csv_field(row.command) : "",
            process || report.by == GroupBy::kCgroup ? csv_field(row.cgroup) : "",
            csv_field(process || report.by == GroupBy::kContainer ? row.container.runtime : ""),
            csv_field(process || report.by == GroupBy::kContainer ? row.container.id : ""),
            processes, kind);
        for (const UsageField &field : kUsageFields)
            out += fmt::format(",{}", usage.*field.member);
        out += "\n";
    };
    for (std::size_t i = 0; i < shown_rows(report, limit); ++i) {
        const Row &row = report.rows[i];
        add(row, "all", row.processes, row.usage);
        for (std::size_t k = 0; row.kinds && k < kKinds; ++k)
            if ((*row.kinds)[k].mappings != 0)
                add(row, kKindNames[k], row.processes, (*row.kinds)[k].usage);
    }
    return out;
}

std::string to_prometheus(const Report &report, const Snapshot &snapshot) {
    using Samples = std::vector<std::pair<std::string, double>>;
    std::string out;
    const auto each = [&](const auto &value) {
        Samples samples;
        for (const Row &row : report.rows)
            samples.emplace_back(labels_of(row, report.by), static_cast<double>(value(row)));
        return samples;
    };
    for (const UsageField &field : kUsageFields)
        add_metric(out, fmt::format("{}_bytes", field.name), field.help,
                   each([&](const Row &row) { return row.usage.*field.member; }));
    if (report.by != GroupBy::kProcess)
        add_metric(out, "processes", "processes that were read",
                   each([](const Row &row) { return row.processes; }));
    const Skipped &skipped = snapshot.skipped;
    const auto count = [](const char *reason, std::uint64_t value) {
        return std::pair<std::string, double>(fmt::format("reason=\"{}\"", reason),
                                              static_cast<double>(value));
    };
    add_metric(out, "skipped_processes", "processes that are not in the figures",
               {count("unreadable", skipped.unreadable.size()), count("vanished", skipped.vanished),
                count("zombie", skipped.zombies), count("kernel_thread", skipped.kernel_threads),
                count("filtered", skipped.filtered)});
    add_metric(out, "duration_seconds", "time that reading took", {{"", snapshot.seconds}});
    add_metric(out, "time_seconds", "when the processes were read, since the epoch",
               {{"", snapshot.unix_time}});
    return out;
}

} // namespace upm::tool::pss
