// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/estimate_output.hpp"

#include "tools/common/text.hpp"

#include <cmath>
#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

std::uint64_t rounded(double bytes) {
    return static_cast<std::uint64_t>(std::llround(bytes));
}

Json classes_json(const Classes &classes) {
    return {{"scanned", classes.scanned},       {"zero", classes.zero},
            {"already_shared", classes.shared}, {"shareable_anon", classes.anon},
            {"shareable_file", classes.file},   {"unique", classes.unique},
            {"saving", rounded(classes.saving)}};
}

Json curve_json(const std::vector<Extrapolation> &points) {
    Json curve = Json::array();
    for (const Extrapolation &point : points)
        curve.push_back(
            {{"n", point.n}, {"without", rounded(point.without)}, {"with", rounded(point.with)}});
    return curve;
}

// A line for each power of two.
std::string curve_text(const std::vector<Extrapolation> &points, const Style &style) {
    const auto text = [&](double bytes) { return format_bytes(rounded(bytes), style.unit); };
    std::string out;
    for (const Extrapolation &point : points)
        if ((point.n & (point.n - 1)) == 0 && point.without > 0)
            out += fmt::format("  {:2} such: {} without, {} with ({:.1f} % less)\n", point.n,
                               text(point.without), text(point.with),
                               100 * (1 - point.with / point.without));
    return out;
}

void add_row(Table &table, const Classes &classes, const std::string &name, const Style &style,
             const char *tint = "") {
    const auto text = [&](std::uint64_t bytes) { return format_bytes(bytes, style.unit); };
    table.add({text(classes.scanned), text(classes.zero), text(classes.shared), text(classes.anon),
               text(classes.file), text(classes.unique), text(rounded(classes.saving)),
               printable(name)},
              tint);
}

} // namespace

Json to_json(const Estimate &estimate) {
    Json json = Json::object();
    json["total"] = classes_json(estimate.total);
    json["error_95"] = rounded(estimate.error);
    json["sampled"] = estimate.sampled;
    json["ksm_saving"] = rounded(estimate.ksm);
    json["saved_now"] = estimate.now;
    json["unreadable"] = estimate.unreadable;
    json["vanished"] = estimate.vanished;
    json["frames_visible"] = estimate.frames;
    json["seconds"] = estimate.seconds;
    json["cpu_seconds"] = estimate.cpu_seconds;
    Json groups = Json::array();
    for (const EstimateGroup &group : estimate.groups) {
        Json one = {{"key", group.key}, {"total", classes_json(group.total())}};
        for (std::size_t i = 0; i < kKinds; ++i)
            if (group.kinds[i].scanned != 0)
                one["kinds"][kKindNames[i]] = classes_json(group.kinds[i]);
        groups.push_back(std::move(one));
    }
    json["groups"] = std::move(groups);
    json["extrapolation"] = curve_json(estimate.extrapolation);
    if (estimate.layout)
        json["keyed_layout"] = {{"saving", rounded(estimate.layout->saving)},
                                {"at_most", rounded(estimate.layout->at_most)},
                                {"error_95", rounded(estimate.layout->error)},
                                {"extrapolation", curve_json(estimate.layout->extrapolation)}};
    return json;
}

Table table_of(const Estimate &estimate, const Style &style) {
    Table table({{"SCANNED"},
                 {"ZERO"},
                 {"SHARED"},
                 {"ANON-DUP"},
                 {"FILE-DUP"},
                 {"UNIQUE"},
                 {"SAVING"},
                 {"GROUP", Table::Align::kLeft}});
    std::array<Classes, kKinds> kinds{};
    std::size_t shown = 0;
    for (const EstimateGroup &group : estimate.groups) {
        if (style.limit == 0 || shown++ < style.limit)
            add_row(table, group.total(), group.key, style);
        for (std::size_t i = 0; i < kKinds; ++i)
            kinds[i] += group.kinds[i];
    }
    add_row(table, estimate.total, fmt::format("total {}", estimate.groups.size()), style, "1");
    for (std::size_t i = 0; i < kKinds; ++i)
        if (kinds[i].scanned != 0)
            add_row(table, kinds[i], fmt::format("  {}", kKindNames[i]), style, "2");
    return table;
}

std::string summary(const Estimate &estimate, const Style &style) {
    const auto text = [&](double bytes) { return format_bytes(rounded(bytes), style.unit); };
    std::string out = fmt::format("perfect merging saves {}", text(estimate.total.saving));
    if (estimate.error > 0)
        out += fmt::format(" ± {} (95 %, from {:.2g} % of the contents)", text(estimate.error),
                           100 * estimate.sampled);
    out += fmt::format("; sharing saves {} already; KSM saves {} of what it was given\n",
                       text(static_cast<double>(estimate.now)), text(estimate.ksm));
    out += curve_text(estimate.extrapolation, style);
    if (estimate.layout) {
        out += fmt::format("with equal addresses (upm run --layout keyed) it saves {}",
                           text(estimate.layout->saving));
        if (estimate.layout->error > 0)
            out += fmt::format(" ± {}", text(estimate.layout->error));
        out += fmt::format(" at least, {} at most\n", text(estimate.layout->at_most)) +
               curve_text(estimate.layout->extrapolation, style);
    }
    if (!estimate.frames)
        out += "page frames are hidden (CAP_SYS_ADMIN): equal shared pages are taken for one\n";
    if (estimate.unreadable != 0)
        out += fmt::format("{} could not be read\n", format_bytes(estimate.unreadable, style.unit));
    return out;
}

} // namespace upm::tool::pss
