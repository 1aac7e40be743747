// SPDX-License-Identifier: MIT
#include "tools/upm/show/prometheus.hpp"

#include "tools/common/text.hpp"

#include <fmt/format.h>
#include <string_view>
#include <utility>
#include <vector>

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

constexpr Metric kPhase = {"", "phase_seconds_total", "counter", Unit::kNanoseconds,
                           "Time of batches, by what was done."};
constexpr Metric kSkipped = {"", "skipped_bytes_total", "counter", Unit::kPages,
                             "Memory that was left as it is, by the reason."};

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

// A metric whose samples differ in one label. Those of `values` that are no number are left out;
// if all are, so is the metric.
void add_labelled(std::string &text, const Metric &metric, const char *label,
                  const std::vector<std::pair<std::string, Json>> &values,
                  std::uint64_t page_size) {
    std::string lines;
    for (const auto &[value, number] : values)
        if (number.is_number())
            lines += fmt::format("upm_module_{}{{{}=\"{}\"}} {}\n", metric.name, label, value,
                                 scaled(number, metric.unit, page_size));
    if (lines.empty())
        return;
    head(text, metric.name, metric.type, metric.help);
    text += lines;
}

std::vector<std::pair<std::string, Json>> phases_in(const Json &statistics) {
    std::vector<std::pair<std::string, Json>> phases;
    for (const char *const phase : {"scan", "freeze", "find", "map", "finish"})
        if (const auto found = statistics.find(std::string(phase) + "_ns");
            found != statistics.end())
            phases.emplace_back(phase, *found);
    return phases;
}

std::vector<std::pair<std::string, Json>> reasons_in(const Json &statistics) {
    std::vector<std::pair<std::string, Json>> reasons;
    const auto found = statistics.find("pages_skipped");
    if (found != statistics.end() && found->is_object())
        for (const auto &[reason, pages] : found->items())
            reasons.emplace_back(reason, pages);
    return reasons;
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
    add_labelled(text, kSkipped, "reason", reasons_in(statistics), page_size);
    add_labelled(text, kPhase, "phase", phases_in(statistics), page_size);
    add_domains(text, module["domains"], page_size);
    return text;
}

} // namespace upm::tool::cli
