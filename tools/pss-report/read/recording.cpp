// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/recording.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/text.hpp"

#include <fmt/format.h>
#include <set>

namespace upm::tool::pss {

namespace {

Usage usage_from(const Json &json) {
    Usage usage;
    for (const UsageField &field : kUsageFields)
        usage.*field.member = json.value(field.name, std::uint64_t{0});
    return usage;
}

std::array<KindUsage, kKinds> kinds_from(const Json &json) {
    std::array<KindUsage, kKinds> kinds{};
    for (std::size_t i = 0; i < kKinds; ++i) {
        const auto found = json.find(kKindNames[i]);
        if (found == json.end())
            continue;
        kinds[i].mappings = found->value("mappings", std::uint64_t{0});
        kinds[i].size = found->value("size", std::uint64_t{0});
        kinds[i].usage = usage_from(found->at("usage"));
    }
    return kinds;
}

Process process_from(const Json &json) {
    Process process;
    process.pid = json.at("pid").get<int>();
    process.uid = json.value("uid", 0U);
    process.user = json.value("user", std::string());
    process.command = json.value("command", std::string());
    process.cgroup = json.value("cgroup", std::string());
    if (const auto container = json.find("container"); container != json.end())
        process.container = {.runtime = container->value("runtime", std::string()),
                             .id = container->value("id", std::string()),
                             .name = container->value("name", std::string()),
                             .pod = container->value("pod", std::string()),
                             .pod_name = container->value("pod_name", std::string())};
    process.usage = usage_from(json.at("usage"));
    if (const auto kinds = json.find("kinds"); kinds != json.end())
        process.kinds = kinds_from(*kinds);
    return process;
}

Skipped skipped_from(const Json &json) {
    Skipped skipped;
    skipped.kernel_threads = json.value("kernel_threads", std::uint64_t{0});
    skipped.zombies = json.value("zombies", std::uint64_t{0});
    skipped.vanished = json.value("vanished", std::uint64_t{0});
    skipped.filtered = json.value("filtered", std::uint64_t{0});
    for (const Json &process : json.value("unreadable", Json::array()))
        skipped.unreadable.push_back(
            {process.value("pid", 0), process.value("command", std::string()),
             process.value("reason", std::string()), process.value("rss", std::uint64_t{0})});
    return skipped;
}

System system_from(const Json &json) {
    System system;
    system.mem_total = json.value("mem_total", std::uint64_t{0});
    system.mem_free = json.value("mem_free", std::uint64_t{0});
    system.mem_available = json.value("mem_available", std::uint64_t{0});
    system.swap_total = json.value("swap_total", std::uint64_t{0});
    system.swap_free = json.value("swap_free", std::uint64_t{0});
    for (const auto &[name, values] : {std::pair{"ksm", &system.ksm}, {"upm", &system.upm}})
        if (const auto found = json.find(name); found != json.end())
            *values = found->get<std::map<std::string, std::int64_t>>();
    return system;
}

std::string stem_of(const std::string &path) {
    std::string name = path.substr(path.rfind('/') + 1);
    const std::size_t dot = name.rfind('.');
    return dot == 0 || dot == std::string::npos ? name : name.substr(0, dot);
}

// Returns true for files without tags of which each has snapshots of one N, and no two of
// the same: points of one curve, one file for each.
bool are_one_curve(const std::vector<std::vector<Snapshot>> &files) {
    std::set<std::int64_t> different;
    for (const std::vector<Snapshot> &file : files) {
        const std::int64_t n = file.front().n;
        if (n < 0 || !different.insert(n).second)
            return false;
        for (const Snapshot &snapshot : file)
            if (!snapshot.tag.empty() || snapshot.n != n)
                return false;
    }
    return files.size() > 1;
}

} // namespace

Snapshot snapshot_from_json(const Json &json) {
    if (json.at("schema").get<int>() != 1)
        throw Failure("it has a schema that this version does not know");
    if (json.at("by").get<std::string>() != "process")
        throw Failure("it is grouped; a recording is by process");
    Snapshot snapshot;
    snapshot.time = json.value("time", std::string());
    snapshot.unix_time = json.value("unix_time", 0.0);
    snapshot.host = json.value("host", std::string());
    snapshot.kernel = json.value("kernel", std::string());
    snapshot.tag = json.value("tag", std::string());
    snapshot.n = json.value("n", std::int64_t{-1});
    snapshot.page_size = json.value("page_size", std::uint64_t{4096});
    snapshot.source = json.value("source", std::string());
    snapshot.exact = json.value("exact", true);
    snapshot.seconds = json.value("seconds", 0.0);
    if (snapshot.page_size == 0)
        throw Failure("its page_size is 0");
    if (const auto system = json.find("system"); system != json.end())
        snapshot.system = system_from(*system);
    for (const Json &row : json.at("rows"))
        snapshot.processes.push_back(process_from(row));
    if (const auto skipped = json.find("skipped"); skipped != json.end())
        snapshot.skipped = skipped_from(*skipped);
    return snapshot;
}

std::vector<Snapshot> parse_recording(std::string_view text, const std::string &path) {
    std::vector<Snapshot> snapshots;
    // One document over many lines: the output of --json.
    if (const Json whole = Json::parse(text, nullptr, false); whole.is_object()) {
        try {
            snapshots.push_back(snapshot_from_json(whole));
        } catch (const std::exception &error) {
            throw Failure(fmt::format("{}: no recording: {}", path, printable(error.what())));
        }
        return snapshots;
    }
    std::size_t number = 0;
    for_each_line(text, [&](std::string_view line) {
        ++number;
        if (trimmed(line).empty())
            return;
        try {
            snapshots.push_back(snapshot_from_json(Json::parse(line)));
        } catch (const std::exception &error) {
            throw Failure(
                fmt::format("{}:{}: no recording: {}", path, number, printable(error.what())));
        }
    });
    if (snapshots.empty())
        throw Failure(fmt::format("{}: holds no snapshot", path));
    return snapshots;
}

std::vector<Snapshot> read_recording(const std::string &path) {
    return parse_recording(read_file(path), path);
}

std::vector<Series> read_series(const std::vector<std::string> &paths, const Filter &filter,
                                GroupBy by) {
    std::vector<std::vector<Snapshot>> files;
    files.reserve(paths.size());
    for (const std::string &path : paths)
        files.push_back(read_recording(path));
    const bool one_curve = are_one_curve(files);
    std::vector<Series> series;
    for (std::size_t i = 0; i < files.size(); ++i)
        for (Snapshot &snapshot : files[i]) {
            std::erase_if(snapshot.processes,
                          [&](const Process &process) { return !wanted(filter, process); });
            add_snapshot(series, one_curve ? "recorded" : stem_of(paths[i]), std::move(snapshot),
                         by);
        }
    return series;
}

} // namespace upm::tool::pss
