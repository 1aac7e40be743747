// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/series_output.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <map>

namespace upm::tool::pss {

namespace {

// Those that were asked for. Over N it is PSS alone else: the RSS of a copy depends neither
// on N nor on merging.
std::vector<const UsageField *> fields_of(const SeriesOptions &options, Axis axis = Axis::kLabel) {
    std::vector<const UsageField *> fields;
    for (const std::string &name : options.fields)
        if (const UsageField *const field = find_usage_field(name))
            fields.push_back(field);
    if (fields.empty() && axis != Axis::kN)
        fields.push_back(find_usage_field("rss"));
    if (options.fields.empty() || fields.empty())
        fields.push_back(find_usage_field("pss"));
    return fields;
}

double value_of(const Sample &sample, const UsageField &field, bool total) {
    const auto sum = static_cast<double>(sample.usage.*field.member);
    return total || sample.copies == 0 ? sum : sum / sample.copies;
}

// What a copy is: a container, or with --n whatever the user counts.
std::string noun(const std::vector<Series> &series, GroupBy by) {
    const bool counted = std::any_of(series.begin(), series.end(), [](const Series &one) {
        return std::any_of(one.samples.begin(), one.samples.end(),
                           [](const Sample &sample) { return sample.n >= 0; });
    });
    return counted && by == GroupBy::kProcess ? "copy" : name_of(by);
}

// One sample for each n, the last; those without an n are left out. In order of n.
std::vector<Sample> over_n(const Series &series) {
    std::map<std::int64_t, Sample> last;
    for (const Sample &sample : series.samples)
        if (sample.n >= 0)
            last[sample.n] = sample;
    std::vector<Sample> samples;
    samples.reserve(last.size());
    for (const auto &[n, sample] : last)
        samples.push_back(sample);
    return samples;
}

Figure bars_of(const std::vector<Series> &series, const SeriesOptions &options) {
    Figure figure;
    figure.kind = FigureKind::kBars;
    figure.changes = series.size() > 1;
    for (const UsageField *field : fields_of(options))
        figure.categories.emplace_back(field->title);
    for (const Series &one : series) {
        Curve curve{one.label, figure.curves.size(), 1, {}};
        for (const UsageField *field : fields_of(options))
            curve.points.emplace_back(static_cast<double>(curve.points.size()),
                                      value_of(one.samples.back(), *field, options.total));
        figure.curves.push_back(std::move(curve));
    }
    return figure;
}

Figure lines_of(const std::vector<Series> &series, const SeriesOptions &options, Axis axis) {
    Figure figure;
    figure.kind = FigureKind::kLines;
    std::size_t color = series.size() == 1 ? 1 : 0;
    for (const Series &one : series) {
        const std::vector<Sample> samples = axis == Axis::kN ? over_n(one) : one.samples;
        for (const UsageField *field : fields_of(options, axis)) {
            // The last field is what merging changes; the others are dashed, each series in
            // its way, since merging leaves RSS as it is and one would hide the other.
            const bool last = field == fields_of(options, axis).back();
            Curve curve{fmt::format("{}, {}", field->title, one.label),
                        color,
                        last ? 1 : 2 + static_cast<unsigned>(color % 2),
                        {}};
            for (const Sample &sample : samples)
                curve.points.emplace_back(axis == Axis::kN ? static_cast<double>(sample.n)
                                                           : sample.time - samples.front().time,
                                          value_of(sample, *field, options.total));
            if (!curve.points.empty())
                figure.curves.push_back(std::move(curve));
        }
        ++color;
    }
    return figure;
}

std::string change_text(double before, double after) {
    return before > 0 ? fmt::format("{:+.1f}%", 100 * (after / before - 1)) : "";
}

std::uint64_t whole(double bytes) {
    return static_cast<std::uint64_t>(std::llround(bytes));
}

} // namespace

Figure figure_of(const std::vector<Series> &series, const SeriesOptions &options) {
    const Axis axis = axis_of(series, options.axis);
    Figure figure =
        axis == Axis::kLabel ? bars_of(series, options) : lines_of(series, options, axis);
    if (axis == Axis::kN && figure.curves.empty())
        throw Failure("--over n: no snapshot says how many copies ran (record them with -n)");
    const std::string each = noun(series, options.by);
    figure.y_title = options.total ? "in all" : "per " + each;
    figure.title = options.title.empty() ? "Memory " + figure.y_title : options.title;
    figure.unit = options.unit;
    if (axis == Axis::kN)
        figure.x_title = each == "process" ? "processes" : each == "copy" ? "copies" : each + "s";
    else if (axis == Axis::kTime)
        figure.x_title = "seconds";
    return figure;
}

Figure figure_of(const Report &report, std::size_t limit, const SeriesOptions &options) {
    constexpr std::size_t kBars = 10, kNameWidth = 24;
    Figure figure;
    figure.kind = FigureKind::kBars;
    figure.unit = options.unit;
    figure.title =
        options.title.empty() ? fmt::format("Memory by {}", name_of(report.by)) : options.title;
    const std::size_t shown = std::min(limit == 0 ? kBars : limit, report.rows.size());
    for (std::size_t i = 0; i < shown; ++i) {
        const Row &row = report.rows[i];
        figure.categories.push_back(shortened(
            printable(report.by == GroupBy::kProcess ? fmt::format("{} {}", row.pid, row.command)
                                                     : row.key),
            kNameWidth));
    }
    for (const UsageField *field : fields_of(options)) {
        Curve curve{field->title, figure.curves.size(), 1, {}};
        for (std::size_t i = 0; i < shown; ++i)
            curve.points.emplace_back(static_cast<double>(i),
                                      static_cast<double>(report.rows[i].usage.*field->member));
        if (shown != 0)
            figure.curves.push_back(std::move(curve));
    }
    return figure;
}

Figure figure_of(const Estimate &estimate, const SeriesOptions &options) {
    if (estimate.extrapolation.empty())
        throw Failure(fmt::format("--estimate: a figure over N needs two groups or more, and "
                                  "there are {} (choose others by --by)",
                                  estimate.groups.size()));
    Figure figure;
    figure.kind = FigureKind::kLines;
    figure.unit = options.unit;
    const std::string each = name_of(options.by);
    figure.title = options.title.empty() ? "What perfect merging would save" : options.title;
    figure.x_title = each == "process" ? "processes" : each + "s";
    figure.y_title = options.total ? "in all" : "per " + each;
    figure.curves = {{"as they are", 0, 1, {}}, {"after perfect merging", 1, 1, {}}};
    for (const Extrapolation &point : estimate.extrapolation) {
        const double n = options.total ? 1 : point.n;
        figure.curves[0].points.emplace_back(point.n, point.without / n);
        figure.curves[1].points.emplace_back(point.n, point.with / n);
    }
    return figure;
}

Table series_table(const std::vector<Series> &series, const SeriesOptions &options) {
    const std::vector<const UsageField *> fields = {
        find_usage_field("rss"), find_usage_field("pss"), find_usage_field("uss"),
        find_usage_field("saved")};
    std::vector<Table::Column> columns = {{"N"}};
    for (const UsageField *field : fields)
        columns.push_back({field->title});
    columns.insert(columns.end(), {{"CHANGE"}, {"TOTAL-PSS"}, {"LABEL", Table::Align::kLeft}});
    Table table(std::move(columns));
    const bool by_n = axis_of(series, options.axis) == Axis::kN;
    const UsageField &pss = *fields[1];
    std::map<double, double> first; // copies -> PSS under the first label
    for (const Series &one : series) {
        const std::vector<Sample> samples =
            by_n ? over_n(one) : std::vector<Sample>{one.samples.back()};
        for (const Sample &sample : samples) {
            std::vector<std::string> cells = {fmt::format("{}", sample.copies)};
            for (const UsageField *field : fields)
                cells.push_back(
                    format_bytes(whole(value_of(sample, *field, options.total)), options.unit));
            const double value = value_of(sample, pss, options.total);
            const double before = first.try_emplace(by_n ? sample.copies : 0, value).first->second;
            cells.push_back(&one == series.data() ? "" : change_text(before, value));
            cells.push_back(format_bytes(sample.usage.pss, options.unit));
            cells.push_back(printable(one.label));
            table.add(std::move(cells));
        }
    }
    return table;
}

Json to_json(const std::vector<Series> &series, const SeriesOptions &options) {
    Json json = {{"schema", 1}, {"by", name_of(options.by)}};
    json["over"] = name_of(axis_of(series, options.axis));
    Json list = Json::array();
    for (const Series &one : series) {
        Json samples = Json::array();
        for (const Sample &sample : one.samples) {
            Json usage = Json::object();
            for (const UsageField &field : kUsageFields)
                usage[field.name] = sample.usage.*field.member;
            Json entry = {{"unix_time", sample.time}};
            if (sample.n >= 0)
                entry["n"] = sample.n;
            entry["copies"] = static_cast<std::uint64_t>(sample.copies);
            entry["usage"] = std::move(usage);
            samples.push_back(std::move(entry));
        }
        list.push_back({{"label", one.label}, {"samples", std::move(samples)}});
    }
    json["series"] = std::move(list);
    return json;
}

} // namespace upm::tool::pss
