// SPDX-License-Identifier: MIT
#include "tools/pss-report/model/series.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <set>

namespace upm::tool::pss {

namespace {

constexpr std::array<const char *, 4> kAxisNames = {"auto", "label", "n", "time"};

} // namespace

const char *name_of(Axis axis) {
    return kAxisNames[static_cast<std::size_t>(axis)];
}

Axis parse_axis(std::string_view text) {
    for (std::size_t i = 0; i < kAxisNames.size(); ++i)
        if (text == kAxisNames[i])
            return static_cast<Axis>(i);
    throw UsageError(
        fmt::format("--over: '{}' is not one of {}", printable(text), fmt::join(kAxisNames, ", ")));
}

void add_snapshot(std::vector<Series> &series, const std::string &label, Snapshot snapshot,
                  GroupBy by) {
    auto &processes = snapshot.processes;
    if (by == GroupBy::kContainer)
        std::erase_if(processes, [](const Process &p) { return p.container.runtime.empty(); });
    if (by == GroupBy::kPod)
        std::erase_if(processes, [](const Process &p) { return p.container.pod.empty(); });
    const Report report = make_report(snapshot, by);
    Sample sample;
    sample.time = snapshot.unix_time;
    sample.n = snapshot.n;
    sample.copies = static_cast<double>(snapshot.n > 0 ? static_cast<std::uint64_t>(snapshot.n)
                                                       : report.rows.size());
    sample.usage = report.total.usage;
    const std::string &name = snapshot.tag.empty() ? label : snapshot.tag;
    auto found = std::find_if(series.begin(), series.end(),
                              [&](const Series &one) { return one.label == name; });
    if (found == series.end())
        found = series.insert(found, {name});
    found->samples.push_back(sample);
    found->last = std::move(snapshot);
}

Axis axis_of(const std::vector<Series> &series, Axis asked) {
    if (asked != Axis::kAuto)
        return asked;
    Axis axis = Axis::kLabel;
    for (const Series &one : series) {
        std::set<std::int64_t> different;
        for (const Sample &sample : one.samples)
            if (sample.n >= 0)
                different.insert(sample.n);
        if (different.size() > 1)
            return Axis::kN;
        if (one.samples.size() > 1)
            axis = Axis::kTime;
    }
    return axis;
}

} // namespace upm::tool::pss
