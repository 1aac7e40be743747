// SPDX-License-Identifier: MIT
#include "tools/upm/show/prometheus.hpp"

#include "tools/common/text.hpp"

#include <fmt/format.h>
#include <string_view>

namespace upm::tool::cli {

namespace {

enum class Unit { kNumber, kPages, kNanoseconds };

// A file of /sys/kernel/upm and what it is called here. The names stay.
struct Metric {
    const char *file;
    const char *name;
    const char *type;
    Unit unit;
    const char *help;
};

constexpr Metric kKnobs[] = {
    {"enabled", "enabled", "gauge", Unit::kNumber, "1 if the module merges, 0 if it was stopped."},
    {"max_pages", "max_bytes", "gauge", Unit::kPages, "Limit of all shared memory."},
};

constexpr Metric kStatistics[] = {
    {"pages_shared", "shared_bytes", "gauge", Unit::kPages, "Shared memory that is mapped."},
    {"pages_sharing", "saved_bytes", "gauge", Unit::kPages,
     "Memory that is not needed since pages are mapped again."},
    {"pages_unused", "unused_bytes", "gauge", Unit::kPages,
     "Shared memory that nobody maps, until the next sweep."},
    {"metadata_bytes", "metadata_bytes", "gauge", Unit::kNumber, "Memory of the bookkeeping."},
    {"lock_ns_max", "lock_max_seconds", "gauge", Unit::kNanoseconds,
     "Longest time that a program's mmap_lock was held."},
    {"calls", "calls_total", "counter", Unit::kNumber, "Calls that merge or unmerge."},
    {"batches", "batches_total", "counter", Unit::kNumber, "Times that a program was locked."},
    {"pages_merged", "merged_bytes_total", "counter", Unit::kPages,
     "Memory that was replaced by shared pages."},
    {"pages_inserted", "inserted_bytes_total", "counter", Unit::kPages,
     "Memory whose content was new, and became shared pages."},
    {"pages_zero", "zero_bytes_total", "counter", Unit::kPages,
     "Pages of zeros that were dropped."},
    {"pages_unmerged", "unmerged_bytes_total", "counter", Unit::kPages,
     "Memory that got private copies again."},
    {"pages_predicted", "predicted_bytes_total", "counter", Unit::kPages,
     "Memory whose shared pages were found without a hash."},
    {"pages_freed", "freed_bytes_total", "counter", Unit::kPages,
     "Shared pages that were freed since nobody mapped them."},
    {"loads", "loads_total", "counter", Unit::kNumber, "Calls that load from a file."},
    {"bytes_loaded", "loaded_bytes_total", "counter", Unit::kNumber, "Bytes that were loaded."},
    {"bytes_copied", "copied_bytes_total", "counter", Unit::kNumber,
     "Bytes of these that did not come to share."},
    {"lock_ns", "lock_seconds_total", "counter", Unit::kNanoseconds,
     "Time that programs' mmap_locks were held for writing."},
};

constexpr Metric kDomain[] = {
    {"pages", "domain_bytes", "gauge", Unit::kPages, "Shared memory of a domain."},
    {"pages_sharing", "domain_saved_bytes", "gauge", Unit::kPages,
     "Memory that a domain's members do not need since they share."},
};

constexpr const char *kPhases[] = {"scan", "freeze", "find", "map", "finish"};

void head(std::string &text, const char *name, const char *type, const char *help) {
    text += fmt::format("# HELP upm_module_{0} {1}\n# TYPE upm_module_{0} {2}\n", name, help, type);
}

double scaled(const Json &number, Unit unit, std::uint64_t page_size) {
    constexpr double kSecond = 1e9;
    const auto value = number.get<double>();
    switch (unit) {
    case Unit::kPages:
        return value * static_cast<double>(page_size);
    case Unit::kNanoseconds:
        return value / kSecond;
    case Unit::kNumber:
        break;
    }
    return value;
}

bool has_number(const Json &values, const char *name) {
    const auto found = values.find(name);
    return found != values.end() && found->is_number();
}

void add(std::string &text, const Metric &metric, const Json &values, std::uint64_t page_size) {
    if (!has_number(values, metric.file))
        return;
    head(text, metric.name, metric.type, metric.help);
    text += fmt::format("upm_module_{} {}\n", metric.name,
                        scaled(values[metric.file], metric.unit, page_size));
}

void add_phases(std::string &text, const Json &statistics) {
    const char *const name = "phase_seconds_total";
    if (!has_number(statistics, "scan_ns"))
        return;
    head(text, name, "counter", "Time of batches, by what was done.");
    for (const char *const phase : kPhases)
        if (const std::string file = std::string(phase) + "_ns";
            has_number(statistics, file.c_str()))
            text += fmt::format("upm_module_{}{{phase=\"{}\"}} {}\n", name, phase,
                                scaled(statistics[file], Unit::kNanoseconds, 0));
}

void add_skipped(std::string &text, const Json &statistics, std::uint64_t page_size) {
    const char *const name = "skipped_bytes_total";
    const auto reasons = statistics.find("pages_skipped");
    if (reasons == statistics.end() || !reasons->is_object())
        return;
    head(text, name, "counter", "Memory that was left as it is, by the reason.");
    for (const auto &[reason, pages] : reasons->items())
        if (pages.is_number())
            text += fmt::format("upm_module_{}{{reason=\"{}\"}} {}\n", name, reason,
                                scaled(pages, Unit::kPages, page_size));
}

void add_domains(std::string &text, const Json &domains, std::uint64_t page_size) {
    for (const Metric &metric : kDomain) {
        std::string lines;
        for (const auto &[id, values] : domains.items())
            if (has_number(values, metric.file))
                lines += fmt::format("upm_module_{}{{domain=\"{}\",kind=\"{}\"}} {}\n", metric.name,
                                     prometheus_label(id),
                                     prometheus_label(values.value("kind", std::string())),
                                     scaled(values[metric.file], metric.unit, page_size));
        if (lines.empty())
            continue;
        head(text, metric.name, metric.type, metric.help);
        text += lines;
    }
}

} // namespace

std::string prometheus_text(const Json &module, std::uint64_t page_size) {
    std::string text;
    head(text, "loaded", "gauge", "1 if the module is loaded.");
    text += fmt::format("upm_module_loaded {}\n", module.is_null() ? 0 : 1);
    if (module.is_null())
        return text;
    for (const Metric &metric : kKnobs)
        add(text, metric, module["knobs"], page_size);
    const Json &statistics = module["statistics"];
    for (const Metric &metric : kStatistics)
        add(text, metric, statistics, page_size);
    add_skipped(text, statistics, page_size);
    add_phases(text, statistics);
    add_domains(text, module["domains"], page_size);
    return text;
}

} // namespace upm::tool::cli
