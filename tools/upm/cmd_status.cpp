// SPDX-License-Identifier: MIT
//
// upm status: which backend, with which settings, and what it saves.
#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/table.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"
#include "tools/upm/layouts.hpp"
#include "tools/upm/model/outlook.hpp"
#include "tools/upm/read/surroundings.hpp"
#include "tools/upm/show/prometheus.hpp"
#include "tools/upm/show/report.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

constexpr std::string_view kSysfs = "/sys/kernel/upm";

// Numbers as numbers, so that readers of the JSON need not convert.
Json value_json(const std::string &text) {
    if (const auto number = parse_integer<std::uint64_t>(text))
        return *number;
    if (text.starts_with('-'))
        if (const auto number = parse_integer<std::uint64_t>(text.substr(1)))
            return -static_cast<std::int64_t>(*number);
    return text;
}

// A file of one line is its value; one of several is a list of names and values.
Json file_json(const Root &root, const std::string &path) {
    std::vector<std::string> lines;
    try {
        root.lines(path, [&](std::string_view line) { lines.emplace_back(line); });
    } catch (const SystemError &) {
        return nullptr; // gone, or not for this user
    }
    if (lines.size() <= 1)
        return lines.empty() ? Json(nullptr) : value_json(std::string(trimmed(lines[0])));
    Json values = Json::object();
    for (const std::string &line : lines) {
        const std::size_t blank = line.find(' ');
        const std::string name = line.substr(0, blank);
        values[name] = blank == std::string::npos
                           ? Json(nullptr)
                           : value_json(std::string(trimmed(std::string_view(line).substr(blank))));
    }
    return values;
}

// The readable files of a folder; what the owner may write is a knob.
void read_folder(const Root &root, const std::string &folder, Json &knobs, Json &statistics) {
    for (const Root::Entry &entry : root.list(folder)) {
        constexpr unsigned kOwnerRead = 0400;
        constexpr unsigned kOwnerWrite = 0200;
        if (entry.directory || (entry.mode & kOwnerRead) == 0)
            continue;
        Json value = file_json(root, folder + "/" + entry.name);
        if (!value.is_null())
            ((entry.mode & kOwnerWrite) != 0 ? knobs : statistics)[entry.name] = std::move(value);
    }
}

Json module_json(const Root &root) {
    const std::string folder(kSysfs);
    if (!root.is_directory(folder))
        return nullptr;
    Json knobs = Json::object();
    Json statistics = Json::object();
    Json domains = Json::object();
    read_folder(root, folder, knobs, statistics);
    for (const Root::Entry &entry : root.list(folder + "/domains")) {
        if (!entry.directory)
            continue;
        Json values = Json::object();
        read_folder(root, folder + "/domains/" + entry.name, values, values);
        domains[entry.name] = std::move(values);
    }
    return {{"knobs", knobs}, {"statistics", statistics}, {"domains", domains}};
}

Json own_stats_json() {
    const Result<Stats> found = stats();
    if (!found)
        return nullptr;
    return {{"pages_shared", found->pages_shared},
            {"pages_sharing", found->pages_sharing},
            {"pages_unused", found->pages_unused},
            {"max_pages", found->max_pages},
            {"metadata_bytes", found->metadata_bytes}};
}

// "upmd_domain_content_bytes{domain="user:0"} 8192" of the backend's service, as an object.
Json service_json() {
    constexpr std::size_t kMost = 60'000; // what upmd sends
    std::string text(kMost, '\0');
    const Result<std::size_t> size = describe_service(text);
    if (!size)
        return nullptr;
    Json values = Json::object();
    std::string_view rest = std::string_view(text).substr(0, *size);
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const std::size_t blank = line.rfind(' ');
        if (blank != std::string_view::npos && !line.starts_with("#"))
            values[std::string(line.substr(0, blank))] =
                value_json(std::string(line.substr(blank + 1)));
    }
    return values;
}

// "upmd_domain_content_bytes{domain=\"user:0\"}": which value of which domain; false for others.
bool split_domain(const std::string &name, std::string &value, std::string &domain) {
    constexpr std::string_view kPrefix = "upmd_domain_";
    constexpr std::string_view kLabel = "{domain=\"";
    const std::size_t label = name.find(kLabel);
    if (!name.starts_with(kPrefix) || label == std::string::npos || !name.ends_with("\"}"))
        return false;
    value = name.substr(kPrefix.size(), label - kPrefix.size());
    domain = name.substr(label + kLabel.size());
    domain.resize(domain.size() - 2);
    return true;
}

// The domains that the broker tells of. This process is one of the clients.
Json service_domains_json(const Json &service, std::uint64_t page_size) {
    Json domains = Json::object();
    std::string value;
    std::string domain;
    for (const auto &[name, number] : service.items())
        if (split_domain(name, value, domain))
            domains[domain][value] = number;
    for (Json &each : domains) {
        const auto number = [&](const char *name) { return each.value(name, std::uint64_t{0}); };
        if (each.contains("pages")) { // an older broker: sizes in pages
            for (const char *const name : {"unused", "mapped", "saved"})
                each[std::string(name) + "_bytes"] =
                    page_size * number((std::string(name) + "_pages").c_str());
            each["content_bytes"] = page_size * number("pages");
        }
        const std::uint64_t content = number("content_bytes");
        each["shared_bytes"] = content - std::min(content, number("unused_bytes"));
    }
    return domains;
}

Json status_json(const Root &root) {
    const Info found = upm::info();
    const Outlook expected = outlook(found, read_surroundings(root));
    const Json service = service_json();
    return {{"command", "status"},
            {"backend", found.backend},
            {"reason", found.reason},
            {"merges",
             {{"programs", expected.merges}, {"what", expected.what}, {"cure", expected.cure}}},
            {"version", found.version},
            {"capabilities",
             {{"immediate", found.immediate != 0},
              {"remote", found.remote != 0},
              {"file_pages", found.file_pages != 0},
              {"unmerge", found.unmerge != 0},
              {"dry_run", found.dry_run != 0},
              {"domains", found.domains != 0}}},
            {"restores", found.restores != 0},
            {"quiescent", found.quiescent != 0},
            {"page_size", found.page_size},
            {"stats", own_stats_json()},
            {"service", service},
            {"domains",
             service.is_null() ? Json(nullptr) : service_domains_json(service, found.page_size)},
            {"programs", programs_json(root)},
            {"module", module_json(root)}};
}

std::string plain(const Json &value) {
    return value.is_string() ? printable(value.get<std::string>()) : value.dump();
}

std::string pairs_text(const char *title, const Json &pairs) {
    if (pairs.empty())
        return "";
    Table rows({{title, Table::Align::kLeft}, {""}});
    for (const auto &[name, value] : pairs.items()) {
        rows.add({"  " + printable(name), value.is_object() ? "" : plain(value)});
        if (value.is_object())
            for (const auto &[inner, number] : value.items())
                rows.add({"    " + printable(inner), plain(number)});
    }
    return "\n" + rows.text();
}

std::string capabilities_text(const Json &capabilities) {
    std::string text;
    for (const auto &[name, value] : capabilities.items())
        if (value.get<bool>())
            text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? "none" : text;
}

std::string stats_text(const Json &status) {
    const Json &found = status["stats"];
    if (found.is_null())
        return "";
    const auto page_size = status["page_size"].get<std::uint64_t>();
    const bool machine = status["backend"] == "ksm";
    return fmt::format("\n{}\n  {} in {} shared pages, mapped at {} further places: {} saved\n"
                       "  bookkeeping: {}\n",
                       machine ? "this machine (KSM)" : "your domain",
                       human_bytes(found["pages_shared"].get<std::uint64_t>() * page_size),
                       plain(found["pages_shared"]), plain(found["pages_sharing"]),
                       human_bytes(found["pages_sharing"].get<std::uint64_t>() * page_size),
                       human_bytes(found["metadata_bytes"].get<std::uint64_t>()));
}

// One row for each domain, one column for each value that the first one has.
std::string domains_text(const Json &domains) {
    if (domains.empty())
        return "";
    std::vector<Table::Column> columns = {{"DOMAIN", Table::Align::kLeft}};
    const Json &first = domains.front();
    for (const auto &[name, value] : first.items())
        columns.push_back({name});
    Table rows(std::move(columns));
    for (const auto &[domain, values] : domains.items()) {
        std::vector<std::string> cells = {printable(domain)};
        for (const auto &[name, value] : first.items())
            cells.push_back(values.contains(name) ? plain(values[name]) : "-");
        rows.add(std::move(cells));
    }
    return "\n" + rows.text();
}

std::string service_text(const Json &service) {
    Json rest = Json::object();
    std::string value;
    std::string domain;
    for (const auto &[name, number] : service.items())
        if (!split_domain(name, value, domain))
            rest[name] = number;
    return pairs_text("broker", rest);
}

std::string service_domains_text(const Json &domains) {
    if (domains.empty())
        return "";
    Table rows({{"DOMAIN", Table::Align::kLeft},
                {"CLIENTS"},
                {"WAITING"},
                {"SEGMENTS"},
                {"SHARED"},
                {"SAVED"},
                {"BY LOAD"},
                {"BY MERGE"},
                {"SEEDED"},
                {"TRIMMED"}});
    for (const auto &[domain, values] : domains.items()) {
        const auto bytes = [&, &all = values](const char *name) { // an older broker has not all
            return all.contains(name) ? human_bytes(all[name].get<std::uint64_t>()) : "-";
        };
        rows.add({printable(domain), plain(values["clients"]), plain(values["waiting"]),
                  plain(values["segments"]), bytes("shared_bytes"), bytes("saved_bytes"),
                  bytes("saved_by_load_bytes"), bytes("saved_by_merge_bytes"),
                  bytes("seeded_bytes"), bytes("trimmed_bytes")});
    }
    return "\n" + rows.text();
}

std::string status_text(const Json &status) {
    std::string text = fmt::format(
        "backend  {} (libupm {})\nreason   {}\nmerges   {}\n", status["backend"].get<std::string>(),
        status["version"].get<std::string>(), printable(status["reason"].get<std::string>()),
        status["merges"]["what"].get<std::string>());
    if (const std::string cure = status["merges"]["cure"]; !cure.empty())
        text += fmt::format("         -> {}\n", cure);
    text += fmt::format("can      {}\n", capabilities_text(status["capabilities"]));
    text += stats_text(status);
    if (!status["service"].is_null())
        text += service_text(status["service"]) + service_domains_text(status["domains"]);
    text += programs_text(status["programs"]);
    const Json &module = status["module"];
    if (module.is_null())
        return text + fmt::format("\nmodule   not loaded (no {})\n", kSysfs);
    return text + pairs_text("knobs", module["knobs"]) +
           pairs_text("statistics", module["statistics"]) + domains_text(module["domains"]);
}

} // namespace

int run_status(const Arguments &arguments) {
    cxxopts::Options options("upm status", "Shows the active backend, its settings and savings.\n");
    options.custom_help("[OPTION...]");
    options.add_options()("prom", "print the module's counters for Prometheus");
    add_common_options(options);
    Common common;
    const bool metrics = parse(options, arguments, common).count("prom") != 0;
    if (common.help)
        return kSuccess;
    if (metrics && common.json)
        throw UsageError("--prom and --json exclude each other");
    if (metrics) {
        print(prometheus_text(module_json(common.root), info().page_size));
        return kSuccess;
    }
    start_no_service();
    const Json status = status_json(common.root);
    print(common.json ? dump(status) + "\n" : status_text(status));
    return kSuccess;
}

} // namespace upm::tool::cli
